"""Embeds texts: text → vector.

Shell: computes on its lane. The vector is what `mesh.models.encoder` gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mesh.models import sources
from mesh.roles.base import Role
from mesh.wire.messages import Fields

CHARS_PER_TOKEN = 4  # of English; only a batch's cost depends on it


class Embed(Role):
    """Turns a text into a normalised vector, float32 [C]; counts its tokens where asked to."""

    takes: ClassVar[Mapping[str, Any]] = {"text": str, "counts": bool | None}
    gives: ClassVar[tuple[str, ...]] = ("vector", "tokens")

    encoder: (
        Any  # mesh.models.encoder.Encoder; torch comes with `load`: every node reads this class
    )

    def load(self) -> None:
        """Load the encoder and run it once, so that the first request finds it warm."""
        from mesh.models.encoder import shared_encoder
        from mesh.models.threads import use_threads

        use_threads(self.context.threads)
        self.encoder = shared_encoder(sources.locate(self.context.model))
        self.encoder.encode(["warm"])

    def cost(self, item: Fields) -> int:
        """Return about how many tokens the text has."""
        return 2 + len(item["text"]) // CHARS_PER_TOKEN

    def run(self, batch: Sequence[Fields]) -> Sequence[Fields | Exception]:
        """Embed all texts of the batch at once."""
        vectors = self.encoder.encode([item["text"] for item in batch])
        answers: list[Fields | Exception] = [{"vector": vector} for vector in vectors]
        for at, item in enumerate(batch):
            if item.get("counts"):
                (ids,) = self.encoder.tokenize([item["text"]])
                answers[at] = {"vector": vectors[at], "tokens": len(ids)}
        return answers

    def statistics(self) -> dict[str, Any]:
        """Return the model and its width."""
        return {"model": self.context.model, "width": self.encoder.width}
