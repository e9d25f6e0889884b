"""Computes BERT and RoBERTa encoders without padding.

Arithmetic: torch, safetensors. `encoder` uses it for the two families that most
sentence encoders belong to, because it is faster there than a general library:

- The tokens of all sentences lie in one matrix [T, C], so no product is spent on
  padding, and no mask can be wrong: a sentence never meets another one except in
  attention, which runs per group of equal lengths.
- Query, key and value are one product.
- Products go through oneDNN with its fused GELU and with weights in the order that it reads
  them in. Measured on one core of an AMD EPYC with AVX-512, 16 rows by 384 x 1536, GFLOP/s:
  float32 85, in oneDNN's order 145; bfloat16 265. 1024 rows: 240, 250, 509.
- Where the processor multiplies bfloat16 itself, factors are of that type and sums of
  float32; what is added up over the blocks, and the norms, stay float32. Of 2,000 passages
  the smallest cosine with float32 throughout was 0.99993.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch.nn import functional

from mesh.errors import SetupError
from mesh.models import packed

PREFIXES = ("", "bert.", "roberta.")  # before each weight's name, by the class it was saved from
POSITIONS_AFTER_PAD = ("roberta", "xlm-roberta")  # these count positions from pad_token_id + 1


SCORES_MAX = 1 << 19  # of attention at a time; more leave the cache, and memory is asked for anew
ROWS_STEP = 128  # rows of a product are a multiple of this,
ROWS_STEP_SMALL = 16  # or of this below it, where a lone question should not wait for zeros


Pair = tuple[torch.Tensor, torch.Tensor]
Take = Callable[[str], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one block, [out, in]; those of products as `Products` wants them."""

    qkv: Pair
    attended: Pair
    norm_attended: Pair
    widen: Pair
    narrow: Pair
    norm: Pair


def suits(config: dict[str, object]) -> bool:
    """Return whether this file computes the model of a `config.json` exactly."""
    return (
        config.get("model_type") in ("bert", *POSITIONS_AFTER_PAD)
        and config.get("hidden_act") == "gelu"
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder", False)
    )


class Bert:
    """The blocks of one model; `hidden` turns token ids into hidden states."""

    def __init__(self, folder: Path, precision: str = "auto") -> None:
        config = json.loads((folder / "config.json").read_text())
        self.width: int = config["hidden_size"]
        self.heads: int = config["num_attention_heads"]
        self.epsilon: float = config["layer_norm_eps"]
        after_pad = config["model_type"] in POSITIONS_AFTER_PAD
        self.first_position: int = config["pad_token_id"] + 1 if after_pad else 0
        self.positions_max: int = config["max_position_embeddings"] - self.first_position
        products = Products(precision)
        self.precision, self._linear = products.precision, products.linear
        take = _reader(folder / "model.safetensors")
        words, self._positions, types = (
            take(f"embeddings.{name}_embeddings.weight")
            for name in ("word", "position", "token_type")
        )
        self._words, self._type = words, types[0]  # sentences alone are all of type 0
        self._norm = _pair(take, "embeddings.LayerNorm")
        self._layers = [_layer(take, products, i) for i in range(config["num_hidden_layers"])]

    def hidden(self, sentences: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the last hidden states of all tokens, sentence after sentence.

        Args:
            sentences: token ids of each, at least one and at most `positions_max`;
                sentences of one length should stand together.

        Returns:
            float32 [T, C], T the number of all tokens.
        """
        lengths = [len(sentence) for sentence in sentences]
        assert lengths
        assert 0 < min(lengths) <= max(lengths) <= self.positions_max
        with torch.inference_mode():
            states = _rounded(self._embed(sentences, lengths))
            runs = [(length, len(list(group))) for length, group in groupby(lengths)]
            for layer in self._layers:
                states = self._block(layer, states, runs)
        return states[: sum(lengths)]

    def _embed(self, sentences: Sequence[Sequence[int]], lengths: list[int]) -> torch.Tensor:
        ids = torch.tensor([token for sentence in sentences for token in sentence])
        places = torch.cat([torch.arange(length) for length in lengths]) + self.first_position
        states = self._words[ids] + self._type + self._positions[places]
        return functional.layer_norm(states, (self.width,), *self._norm, self.epsilon)

    def _block(
        self, layer: Layer, states: torch.Tensor, runs: list[tuple[int, int]]
    ) -> torch.Tensor:
        shape, linear = (self.width,), self._linear
        mixed = self._attend(linear(states, *layer.qkv, "none"), runs)
        states = states + linear(mixed, *layer.attended, "none")
        states = functional.layer_norm(states, shape, *layer.norm_attended, self.epsilon)
        wide = linear(states, *layer.widen, "gelu")
        states = states + linear(wide, *layer.narrow, "none")
        return functional.layer_norm(states, shape, *layer.norm, self.epsilon)

    def _attend(self, qkv: torch.Tensor, runs: list[tuple[int, int]]) -> torch.Tensor:
        """Attend within each sentence; a run is (length, how many sentences of it)."""
        mixed = torch.zeros(qkv.shape[0], self.width, dtype=qkv.dtype)
        start = 0
        for length, count in runs:
            end = start + length * count
            # [B * T, 3 * C] -> 3 x [B, H, T, D]
            parts = qkv[start:end].view(count, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            each = attention(parts[0], parts[1], parts[2])
            mixed[start:end] = each.transpose(1, 2).reshape(length * count, self.width)
            start = end
        return mixed


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return softmax(query @ key.T / root(D)) @ value of each head, [B, H, T, D].

    With heads as narrow as MiniLM's, torch's own attention is a third to half as fast in
    bfloat16 as two products and a softmax (40 tokens x 25: 2.6 ms against 1.0).
    """
    if query.dtype == torch.float32:
        return functional.scaled_dot_product_attention(query, key, value)
    count, heads, length, width = query.shape
    step = max(1, SCORES_MAX // (heads * length * length))
    mixed = torch.empty_like(query)
    for start in range(0, count, step):
        part = slice(start, start + step)
        scores = torch.matmul(query[part] * width**-0.5, key[part].transpose(-1, -2))
        shares = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
        mixed[part] = torch.matmul(shares, value[part])
    return mixed


def _rounded(states: torch.Tensor) -> torch.Tensor:
    """Return the rows with zeros behind them, up to a round number of rows.

    oneDNN compiles and keeps a kernel for each number of rows that it meets; with any
    number allowed they took 400 MB after forty questions.
    """
    step = ROWS_STEP_SMALL if len(states) < ROWS_STEP else ROWS_STEP
    return functional.pad(states, (0, 0, 0, -len(states) % step))


class Products:
    """Multiplies states by weights, as fast as this processor can.

    Attributes:
        precision: of the factors, "float32" or "bfloat16".
    """

    def __init__(self, precision: str = "auto") -> None:
        assert precision in ("auto", "float32", "bfloat16")
        if precision == "auto":
            can = packed.is_available() and packed.multiplies_bfloat16()
            precision = "bfloat16" if can else "float32"
        self.precision = precision
        self._type = torch.bfloat16 if precision == "bfloat16" else torch.float32

    def prepared(self, pair: Pair) -> Pair:
        """Return weight and bias such that `linear` takes them."""
        weight, bias = (one.to(self._type).contiguous() for one in pair)
        return packed.pack(weight), bias

    def linear(
        self, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, act: str
    ) -> torch.Tensor:
        """Return act(states @ weight.T + bias); `act` is "gelu" or "none"."""
        return packed.product(states.to(self._type), weight, bias, act)


def _reader(path: Path) -> Take:
    try:
        file = safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise SetupError(f"cannot read the weights {path}: {error}") from error
    names = set(file.keys())
    prefix = next((p for p in PREFIXES if f"{p}embeddings.word_embeddings.weight" in names), "")

    def take(name: str) -> torch.Tensor:
        if prefix + name not in names:
            raise SetupError(f"{path} lacks the weight {prefix + name!r}")
        return file.get_tensor(prefix + name).float()

    return take


def _pair(take: Take, name: str) -> Pair:
    return take(f"{name}.weight"), take(f"{name}.bias")


def _layer(take: Take, products: Products, index: int) -> Layer:
    at = f"encoder.layer.{index}"
    parts = [_pair(take, f"{at}.attention.self.{name}") for name in ("query", "key", "value")]
    weights, biases = (torch.cat(each) for each in zip(*parts, strict=True))

    def product(name: str) -> Pair:
        return products.prepared(_pair(take, f"{at}.{name}"))

    return Layer(
        qkv=products.prepared((weights, biases)),
        attended=product("attention.output.dense"),
        norm_attended=_pair(take, f"{at}.attention.output.LayerNorm"),
        widen=product("intermediate.dense"),
        narrow=product("output.dense"),
        norm=_pair(take, f"{at}.output.LayerNorm"),
    )
