"""Learns a small classifier on an encoder's vectors from a few dozen sentences per label.

Arithmetic: numpy. Used by the role classify where no classification model is given.

Multinomial logistic regression with a quadratic penalty, by plain gradient descent
from zero: convex and without chance, so that it ends at the same weights everywhere.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mesh.errors import SetupError

FOLDER = Path(__file__).parent / "labelled"
STEPS = 400  # of gradient descent; the loss moves by less than 1e-4 of itself in the last ten
RATE = 8.0  # of a step; vectors have length one, so the loss's curvature is below 0.5
PENALTY = 1e-3  # on squared weights; weaker ones fit the few sentences too closely


@dataclass(frozen=True, slots=True)
class Head:
    """Weights of a trained classifier.

    Attributes:
        labels: in the order of the columns.
        weights: float64 [C, labels].
        bias: float64 [labels].
    """

    labels: tuple[str, ...]
    weights: np.ndarray
    bias: np.ndarray

    def probabilities(self, vectors: np.ndarray) -> np.ndarray:
        """Return the probability of each label for vectors [N, C]; rows sum to 1."""
        return _softmax(vectors @ self.weights + self.bias)


def read_labelled(name: str) -> dict[str, list[str]]:
    """Return the sentences of each label: of a built-in set, or of a TOML file.

    Raises:
        SetupError: there is no such set, or it has fewer than two labels.
    """
    path = FOLDER / f"{name}.toml" if name.isidentifier() else Path(name).expanduser()
    try:
        classes = tomllib.loads(path.read_text(encoding="utf-8"))["class"]
        labelled = {each["label"]: list(each["sentences"]) for each in classes}
    except (OSError, ValueError, KeyError, TypeError) as error:
        built_in = ", ".join(sorted(each.stem for each in FOLDER.glob("*.toml")))
        raise SetupError(
            f"labels {name!r}: expected {built_in}, or a TOML file of [[class]] tables with "
            f"label and sentences; {path}: {error}"
        ) from error
    if len(labelled) < 2 or not all(labelled.values()):
        raise SetupError(f"{path}: expected two labels or more, each with sentences")
    return labelled


def train(labelled: dict[str, list[str]], encode: Callable[[Sequence[str]], np.ndarray]) -> Head:
    """Return a head that tells the labels apart; each label weighs the same."""
    labels = tuple(labelled)
    sentences = [sentence for part in labelled.values() for sentence in part]
    vectors = np.asarray(encode(sentences), np.float64)
    target = np.repeat(np.eye(len(labels)), [len(part) for part in labelled.values()], axis=0)
    share = (target / target.sum(axis=0)).sum(axis=1, keepdims=True) / len(labels)
    weights, bias = np.zeros((vectors.shape[1], len(labels))), np.zeros(len(labels))
    for _ in range(STEPS):
        wrong = share * (_softmax(vectors @ weights + bias) - target)
        weights -= RATE * (vectors.T @ wrong + PENALTY * weights)
        bias -= RATE * wrong.sum(axis=0)
    return Head(labels, weights, bias)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
