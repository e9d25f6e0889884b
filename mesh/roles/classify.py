"""Classifies texts: text → label, score, flagged.

Shell: computes on its lane. With an encoder as its model it learns a head at load from
labelled sentences; with a sequence-classification model it uses that one's labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from mesh.errors import SetupError
from mesh.models import sources
from mesh.roles.base import Role
from mesh.wire.messages import Fields

SENTIMENTS = ("very negative", "negative", "neutral", "positive", "very positive")
HARMLESS = frozenset({"safe", "non-toxic", "not toxic", "neutral", "none", "ok"})
_STARS = re.compile(r"([1-5]) stars?")


class Classify(Role):
    """Says which label a text has, how sure that is, and whether it is one to be flagged.

    `flagged` is true where the best label's score is above `threshold` and the label is
    not harmless ("safe", "neutral" …): for a safety model, whether the text is toxic.
    """

    takes: ClassVar[Mapping[str, Any]] = {"text": str}
    gives: ClassVar[tuple[str, ...]] = ("label", "score", "flagged")
    options: ClassVar[Mapping[str, Any]] = {
        # With an encoder: "sentiment", "safety", or a TOML file of labelled sentences.
        # With a classification model: its labels in other words, in its own order.
        "labels": "",
        "chars_max": 512,  # of a text that are read; how a text begins says enough
        "threshold": 0.5,  # of `flagged`
    }

    labels: tuple[str, ...]

    def load(self) -> None:
        """Load the model; learn the head if it is an encoder."""
        # torch comes with `load`: every node reads this class, few run it.
        from mesh.models import head
        from mesh.models.encoder import is_classifier, shared_classifier, shared_encoder
        from mesh.models.threads import use_threads

        use_threads(self.context.threads)
        options = {**self.options, **self.context.options}
        self._chars_max, self._threshold = int(options["chars_max"]), float(options["threshold"])
        folder = sources.locate(self.context.model)
        self._probabilities: Callable[[Sequence[str]], Any]
        if is_classifier(folder):
            model = shared_classifier(folder)
            self.labels = _renamed(model.labels, options["labels"])
            self._probabilities, self._how = model.probabilities, "model"
        else:
            encoder = shared_encoder(folder)
            trained = head.train(head.read_labelled(str(options["labels"])), encoder.encode)
            self.labels, self._how = trained.labels, "few-shot head"
            self._probabilities = lambda texts: trained.probabilities(encoder.encode_shared(texts))

    def run(self, batch: Sequence[Fields]) -> Sequence[Fields | Exception]:
        """Classify all texts of the batch at once."""
        rows = self._probabilities([item["text"][: self._chars_max] for item in batch])
        return [self._answer(row) for row in rows]

    def statistics(self) -> dict[str, Any]:
        """Return how labels are found."""
        return {"model": self.context.model, "labels": list(self.labels), "how": self._how}

    def _answer(self, chances: Any) -> Fields:
        best = int(chances.argmax())
        label, score = self.labels[best], float(chances[best])
        is_flagged = score > self._threshold and label.lower() not in HARMLESS
        return {"label": label, "score": round(score, 4), "flagged": is_flagged}


def _renamed(labels: tuple[str, ...], wanted: Any) -> tuple[str, ...]:
    """Return a model's labels in the words asked for; stars are sentiments."""
    if isinstance(wanted, list | tuple):
        if len(wanted) != len(labels):
            raise SetupError(f"labels: expected {len(labels)} for {labels}, found {len(wanted)}")
        return tuple(str(each) for each in wanted)
    if len(labels) == len(SENTIMENTS) and all(_STARS.fullmatch(each) for each in labels):
        return tuple(SENTIMENTS[int(each[0]) - 1] for each in labels)
    return labels
