"""Turns sentences into vectors, pairs into scores, texts into labels.

Arithmetic: torch, tokenizers; transformers only for what `bert` does not compute.
Used by the roles embed, rerank and classify, and by `tools.corpus`.

A batch's answer equals the answer alone: sentences are sorted by length and either
not padded at all (`bert`) or padded only to the longest of a small group, with a mask.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from tokenizers import Tokenizer

from mesh.errors import SetupError
from mesh.models import bert
from mesh.models.threads import use_threads

TOKENS_MAX = 512  # of a text, where a model's own files give no limit
BATCH_TOKENS_MAX = (
    1024  # of one pass; products are at full speed from 256 rows on, memory is bounded
)
CHARS_PER_TOKEN_MAX = 64  # a text is cut at so many tokens: megabytes behind them are not read
RECENT_MAX = 64  # texts whose vectors are kept for a role that asks for the same ones
CLASSIFIER_BATCH_MAX = 16  # padded rows of one pass of a classifier

_Hidden = Callable[[Sequence[Sequence[int]]], torch.Tensor]


class Encoder:
    """A sentence encoder in a local folder: tokenizer, blocks, pooling.

    Args of the constructor:
        folder: of the model.
        precision: of products: "float32", "bfloat16", or "auto", the second where the
            processor has instructions for it. Other families than `bert`'s take float32.
    """

    def __init__(self, folder: Path, precision: str = "auto") -> None:
        self.name = folder.name
        config = read_json(folder / "config.json")
        self.tokens_max = _tokens_max(folder, config)
        self._tokenizer = open_tokenizer(folder, self.tokens_max)
        self._pools_first, self._normalizes = _pooling(folder)
        self._hidden: _Hidden
        if bert.suits(config) and (folder / "model.safetensors").exists():
            blocks = bert.Bert(folder, precision)
            self.width, self.precision, self._hidden = blocks.width, blocks.precision, blocks.hidden
        else:
            self.precision = "float32"
            self.width, self._hidden = _general_blocks(folder)
        self._recent: dict[str, np.ndarray] = {}
        self._sharing = threading.Lock()

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, cut to `tokens_max`."""
        begun = [_beginning(text, self.tokens_max) for text in texts]
        return [each.ids for each in self._tokenizer.encode_batch_fast(begun)]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return one vector per text, float32 [N, C]."""
        vectors = np.empty((len(texts), self.width), np.float32)
        for at, vector in self._each(texts, self._pooled):
            vectors[at] = vector
        return vectors

    def encode_shared(self, texts: Sequence[str]) -> np.ndarray:
        """Return what `encode` does; texts that were just asked for are not computed again.

        Two roles that judge the same answer at the same moment share one pass: the second
        waits for the first, which takes as long as computing beside it would, on half the cores.
        """
        with self._sharing:
            missing = [text for text in dict.fromkeys(texts) if text not in self._recent]
            self._recent.update(zip(missing, self.encode(missing), strict=True))
            vectors = np.array([self._recent[text] for text in texts], np.float32)
            for oldest in list(self._recent)[:-RECENT_MAX]:
                del self._recent[oldest]
        return vectors.reshape(len(texts), self.width)

    def token_vectors(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the normalised vectors of each text's tokens, float32 [T, C] each.

        The special tokens at both ends are left out: they carry no word to match.
        """
        found: list[np.ndarray] = [np.empty((0, self.width), np.float32)] * len(texts)
        for at, vectors in self._each(texts, lambda states: _unit(states[1:-1]).numpy()):
            found[at] = vectors
        return found

    def _pooled(self, states: torch.Tensor) -> np.ndarray:
        pooled = states[0] if self._pools_first else states.mean(dim=0)
        vector: np.ndarray = (_unit(pooled) if self._normalizes else pooled).numpy()
        return vector

    def _each(
        self, texts: Sequence[str], finish: Callable[[torch.Tensor], np.ndarray]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (place in `texts`, what `finish` makes of its hidden states [T, C]) in any order.

        Where there are several passes, each thread computes its own: threads that share a
        product wait for each other after every one, and small steps between use only one.
        """
        tokens = self.tokenize(texts)

        def run(places: list[int]) -> list[tuple[int, np.ndarray]]:
            states = self._hidden([tokens[at] for at in places])
            each = states.split([len(tokens[at]) for at in places])
            return [(at, finish(own)) for at, own in zip(places, each, strict=True)]

        passes = list(batches([len(ids) for ids in tokens], BATCH_TOKENS_MAX))
        threads = min(torch.get_num_threads(), len(passes))
        if threads < 2:
            for places in passes:
                yield from run(places)
            return
        with ThreadPoolExecutor(threads, initializer=use_threads, initargs=(1,)) as pool:
            for found in pool.map(run, passes):
                yield from found


def _unit(states: torch.Tensor) -> torch.Tensor:
    """Return the rows at length one."""
    return torch.nn.functional.normalize(states, dim=-1)


class Classifier:
    """A sequence-classification model in a local folder: class probabilities of texts or pairs."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        config = read_json(folder / "config.json")
        self._tokens_max = _tokens_max(folder, config)
        self._tokenizer = open_tokenizer(folder, self._tokens_max)
        self._pad = int(config.get("pad_token_id") or 0)
        self._model = _general_model(folder, "AutoModelForSequenceClassification")
        self.labels = tuple(str(name) for _, name in sorted(self._model.config.id2label.items()))
        self._is_multi = config.get("problem_type") == "multi_label_classification"

    def scores(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> np.ndarray:
        """Return the logits of each text or pair, float32 [N, labels]."""
        encodings = self._tokenizer.encode_batch([self._begun(each) for each in texts])
        rows = np.empty((len(texts), len(self.labels)), np.float32)
        lengths = [len(each.ids) for each in encodings]
        for places in batches(lengths, BATCH_TOKENS_MAX, CLASSIFIER_BATCH_MAX):
            rows[places] = self._forward([encodings[at] for at in places])
        return rows

    def _begun(self, text: str | tuple[str, str]) -> str | tuple[str, str]:
        if isinstance(text, str):
            return _beginning(text, self._tokens_max)
        first, second = text
        return _beginning(first, self._tokens_max), _beginning(second, self._tokens_max)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Return the probability of each label, float32 [N, labels]."""
        logits = torch.from_numpy(self.scores(texts))
        chances = logits.sigmoid() if self._is_multi else logits.softmax(dim=-1)
        return chances.numpy()

    def _forward(self, encodings: Sequence[Any]) -> np.ndarray:
        ids, mask = _padded([each.ids for each in encodings], self._pad)
        types, _ = _padded([each.type_ids for each in encodings], 0)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if getattr(self._model.config, "type_vocab_size", 1) > 1:
            inputs["token_type_ids"] = types
        with torch.inference_mode():
            return self._model(**inputs).logits.float().numpy()


_loaded: WeakValueDictionary[tuple[type, Path], Any] = WeakValueDictionary()
_loading = threading.Lock()


def shared_encoder(folder: Path) -> Encoder:
    """Return the process's one encoder of this folder; it is freed with its last user."""
    return _shared(Encoder, folder)


def shared_classifier(folder: Path) -> Classifier:
    """Return the process's one classifier of this folder; it is freed with its last user."""
    return _shared(Classifier, folder)


def _shared(kind: Callable[[Path], Any], folder: Path) -> Any:
    """Roles of one node load on their own threads: the lock keeps them from loading twice."""
    assert isinstance(kind, type)
    with _loading:
        key = (kind, folder.resolve())
        if (model := _loaded.get(key)) is None:
            model = _loaded[key] = kind(folder)
        return model


def is_classifier(folder: Path) -> bool:
    """Return whether the folder's model has a classification head (cross-encoders have one)."""
    names = read_json(folder / "config.json").get("architectures") or [""]
    return str(names[0]).endswith("ForSequenceClassification")


def batches(
    lengths: Sequence[int], tokens_max: int, items_max: int | None = None
) -> Iterator[list[int]]:
    """Yield places of items, longest first, such that no pass exceeds a number of tokens.

    Longest first, so that a batch too large for memory fails at once and not at the end.
    An item longer than `tokens_max` goes alone.
    """
    order = sorted(range(len(lengths)), key=lambda at: (-lengths[at], at))
    batch: list[int] = []
    for at in order:
        full = batch and (len(batch) + 1) * lengths[batch[0]] > tokens_max
        if full or (items_max is not None and len(batch) == items_max):
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a model; {} only where the file may be absent.

    Raises:
        SetupError: there is no such file, or it is not JSON.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SetupError(f"cannot read the model file {path}: {error}") from error
    assert isinstance(value, dict)
    return value


def open_tokenizer(folder: Path, tokens_max: int) -> Tokenizer:
    """Return the folder's tokenizer, which cuts at `tokens_max` and does not pad.

    Raises:
        SetupError: there is no readable `tokenizer.json`.
    """
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises bare Exception
        raise SetupError(f"cannot read the tokenizer of {folder}: {error}") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(tokens_max)
    return tokenizer


def _beginning(text: str, tokens_max: int) -> str:
    """Return what of a text can be among its first tokens."""
    return text[: CHARS_PER_TOKEN_MAX * tokens_max]


def _tokens_max(folder: Path, config: dict[str, Any]) -> int:
    path = folder / "sentence_bert_config.json"
    stated = read_json(path).get("max_seq_length") if path.exists() else None
    limit = int(stated or TOKENS_MAX)
    positions = config.get("max_position_embeddings")
    if positions:  # RoBERTa keeps pad_token_id + 1 positions for itself
        own = config.get("model_type") in bert.POSITIONS_AFTER_PAD
        limit = min(limit, positions - (int(config.get("pad_token_id") or 0) + 1 if own else 0))
    return limit


def _pooling(folder: Path) -> tuple[bool, bool]:
    """Return (takes the first token's vector instead of the mean, normalises)."""
    modules = folder / "modules.json"
    names = modules.read_text() if modules.exists() else "Normalize"
    path = folder / "1_Pooling" / "config.json"
    config = read_json(path) if path.exists() else {"pooling_mode_mean_tokens": True}
    takes_first = bool(config.get("pooling_mode_cls_token"))
    if not takes_first and not config.get("pooling_mode_mean_tokens"):
        raise SetupError(f"{path}: expected pooling by the cls token or the mean, found {config}")
    return takes_first, "Normalize" in names


def _general_model(folder: Path, kind: str) -> Any:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        model = getattr(transformers, kind).from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise SetupError(f"cannot load the model in {folder}: {error}") from error
    return model.eval()


def _general_blocks(folder: Path) -> tuple[int, _Hidden]:
    model = _general_model(folder, "AutoModel")
    pad = int(model.config.pad_token_id or 0)

    def hidden(sentences: Sequence[Sequence[int]]) -> torch.Tensor:
        ids, mask = _padded(sentences, pad)
        with torch.inference_mode():
            states = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        return states[mask.bool()]

    return model.config.hidden_size, hidden


def _padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (ids, mask), both int64 [B, T]."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros_like(ids)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = torch.tensor(row)
        mask[at, : len(row)] = 1
    return ids, mask
