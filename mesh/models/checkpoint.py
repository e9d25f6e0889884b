"""Reads a model's tensors from safetensors or GGUF, one by one, only those asked for.

Arithmetic, no asyncio; used by `models.decoder`. Both kinds of file are mapped into
memory, so a node touches only the bytes of its own layers. Names and layouts are one
set of our own, whatever the file:

    embed  position  final_norm  head                        (.weight, .bias)
    layers.I.attn_norm  .mlp_norm  .q .k .v  .o  .gate .up .down

A matrix is `[out, in]`. The rows of `q` and `k` stand in rotary pairs (2i, 2i+1), as
llama.cpp keeps them, not as halves (i, i + D/2), as transformers does: pairs let one
complex product do the rotation. Both are the same up to an order which cancels in q·k.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mesh.errors import SetupError
from mesh.models import architecture as shapes
from mesh.models.architecture import Architecture
from mesh.models.gguf_file import GgufFile
from mesh.models.quantize import Blocks, Weight

HUB_LLAMA = {
    "embed": "model.embed_tokens",
    "final_norm": "model.norm",
    "head": "lm_head",
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    **{part: f"self_attn.{part}_proj" for part in "qkvo"},
    **{part: f"mlp.{part}_proj" for part in ("gate", "up", "down")},
}
HUB_GPT2 = {
    "embed": "wte",
    "position": "wpe",
    "final_norm": "ln_f",
    "head": "lm_head",
    "attn_norm": "ln_1",
    "mlp_norm": "ln_2",
    "qkv": "attn.c_attn",
    "o": "attn.c_proj",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}
GGUF = {
    "embed": "token_embd",
    "position": "position_embd",
    "final_norm": "output_norm",
    "head": "output",
    "attn_norm": "attn_norm",
    "mlp_norm": "ffn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "qkv": "attn_qkv",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
_LAYER = re.compile(r"layers\.(\d+)\.(\w+)\.(weight|bias)$")


class Source(Protocol):
    """One opened file or folder, by the names that it uses itself."""

    def has(self, name: str) -> bool:
        """Return whether the tensor is there."""

    def read(self, name: str) -> Weight:
        """Return the tensor, matrices as `[out, in]`."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened model.

    Attributes:
        path: the folder or GGUF file.
        metadata: the key-value head of a GGUF file, else empty; `models.tokenizer` reads it.
    """

    path: Path
    architecture: Architecture
    source: Source
    names: Mapping[str, str]
    layer_prefix: str
    are_pairs: bool
    metadata: Mapping[str, Any]

    def has(self, name: str) -> bool:
        """Return whether the tensor of our name exists."""
        theirs = self._theirs(name)
        return theirs is not None and self.source.has(theirs)

    def read(self, name: str) -> Weight:
        """Return the tensor of our name; rows of q and k in rotary pairs.

        Raises:
            SetupError: the file does not have it.
        """
        theirs = self._theirs(name)
        if theirs is None or not self.source.has(theirs):
            raise SetupError(f"{self.path}: tensor {name!r} ({theirs}) is missing")
        weight = self.source.read(theirs)
        part = name.split(".")[-2]
        if part in ("q", "k") and self.architecture.rope_theta and not self.are_pairs:
            return weight[_pairs(weight.shape[0], self.architecture.head_width)]
        return weight

    def rope_factors(self) -> Tensor | None:
        """Return the divisors of rotary frequencies that a GGUF file may carry."""
        if self.metadata and self.source.has("rope_freqs.weight"):
            return dense(self.source.read("rope_freqs.weight"))
        return None

    def _theirs(self, name: str) -> str | None:
        found = _LAYER.match(name)
        if not found:
            part, kind = name.split(".")
            return f"{self.names[part]}.{kind}" if part in self.names else None
        layer, part, kind = found.groups()
        if part not in self.names:
            return None
        return f"{self.layer_prefix}{layer}.{self.names[part]}.{kind}"


def dense(weight: Weight) -> Tensor:
    """Return the weight as float32, dequantised if need be."""
    return weight.dense() if isinstance(weight, Blocks) else weight.to(torch.float32)


def _pairs(rows: int, head_width: int) -> Tensor:
    """Return the order that turns halves (i, i + D/2) into pairs (2i, 2i+1), per head."""
    order = torch.arange(rows).view(-1, 2, head_width // 2)
    return order.transpose(1, 2).reshape(-1)


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a folder with `config.json` and safetensors, or a GGUF file.

    Raises:
        SetupError: neither is there, or the architecture is not known.
    """
    if path.is_file() and path.suffix == ".gguf":
        opened = _open_gguf(path)
    elif (path / "config.json").is_file():
        opened = _open_hub(path)
    else:
        raise SetupError(f"{path}: expected a .gguf file, or a folder with config.json")
    shapes.check(opened.architecture)
    return opened


# --- safetensors ---------------------------------------------------------------------


class _Safetensors:
    def __init__(self, folder: Path, transposed: tuple[str, ...]) -> None:
        from safetensors import safe_open

        index = folder / "model.safetensors.index.json"
        if index.is_file():
            shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        else:
            shards = sorted(file.name for file in folder.glob("*.safetensors"))
        if not shards:
            raise SetupError(f"{folder}: no *.safetensors file")
        self._where: dict[str, Any] = {}
        for shard in shards:
            opened = safe_open(str(folder / shard), framework="pt")
            self._where.update(dict.fromkeys(opened.keys(), opened))
        self._transposed = transposed

    def has(self, name: str) -> bool:
        return name in self._where

    def read(self, name: str) -> Weight:
        tensor: Tensor = self._where[name].get_tensor(name)
        is_turned = name.endswith(self._transposed) if self._transposed else False
        return tensor.t().contiguous() if is_turned else tensor


def _open_hub(folder: Path) -> Checkpoint:
    config = json.loads((folder / "config.json").read_text())
    generation = folder / "generation_config.json"
    if generation.is_file():
        ends = json.loads(generation.read_text()).get("eos_token_id")
        config = config if ends is None else {**config, "eos_token_id": ends}
    architecture = shapes.from_hub(config)
    is_gpt2 = architecture.family == "gpt2"
    # GPT-2's Conv1D keeps its matrices as [in, out].
    turned = ("c_attn.weight", "c_proj.weight", "c_fc.weight") if is_gpt2 else ()
    source = _Safetensors(folder, turned)
    names, prefix = (HUB_GPT2, "h.") if is_gpt2 else (HUB_LLAMA, "model.layers.")
    if is_gpt2 and source.has("transformer.wte.weight"):
        ends_with = {"embed", "position", "final_norm"}
        names = {ours: f"transformer.{x}" if ours in ends_with else x for ours, x in names.items()}
        prefix = "transformer.h."
    if not source.has("lm_head.weight"):
        architecture = replace(architecture, is_tied=True)
    return Checkpoint(folder, architecture, source, names, prefix, False, {})


# --- GGUF ----------------------------------------------------------------------------


class _Gguf:
    def __init__(self, file: GgufFile) -> None:
        self._file = file

    def has(self, name: str) -> bool:
        return name in self._file.places

    def rows(self, name: str) -> int:
        return self._file.places[name].shape[0]

    def read(self, name: str) -> Weight:
        data, place = self._file.read(name), self._file.places[name]
        if place.kind in _UNPACK:
            return _UNPACK[place.kind](data)
        if place.kind in ("F32", "F16"):
            type_ = np.float32 if place.kind == "F32" else np.float16
            return torch.from_numpy(data.view(type_).reshape(place.shape).copy())
        from gguf import GGMLQuantizationType, dequantize

        try:
            return torch.from_numpy(dequantize(data, GGMLQuantizationType[place.kind]))
        except NotImplementedError as error:
            raise SetupError(f"tensor {name!r}: type {place.kind} cannot be read") from error


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """Return 32 codes of 0..15 from 16 bytes: low halves first, then high ones."""
    return np.concatenate([packed & 0x0F, packed >> 4], axis=-1)


def _halves(raw: np.ndarray) -> Tensor:
    return torch.from_numpy(raw.copy().view(np.float16)[..., 0].astype(np.float32))


def _q4_0(data: np.ndarray) -> Blocks:
    """Unpack w = (q - 8)·d; a block is d (f16) and 16 bytes."""
    raw = data.reshape(data.shape[0], -1, 18)
    codes = _nibbles(raw[..., 2:]).reshape(data.shape[0], -1)
    scale = _halves(raw[..., :2])
    return Blocks(torch.from_numpy(codes), scale, torch.zeros_like(scale), 4)


def _q4_1(data: np.ndarray) -> Blocks:
    """Unpack w = q·d + m = (q - 8)·d + (m + 8·d); a block is d, m (f16) and 16 bytes."""
    raw = data.reshape(data.shape[0], -1, 20)
    codes = _nibbles(raw[..., 4:]).reshape(data.shape[0], -1)
    scale, low = _halves(raw[..., :2]), _halves(raw[..., 2:4])
    return Blocks(torch.from_numpy(codes), scale, low + 8 * scale, 4)


def _q8_0(data: np.ndarray) -> Blocks:
    """Unpack w = q·d; a block is d (f16) and 32 signed bytes."""
    raw = data.reshape(data.shape[0], -1, 34)
    codes = raw[..., 2:].copy().view(np.int8).reshape(data.shape[0], -1)
    return Blocks(torch.from_numpy(codes), _halves(raw[..., :2]), None, 8)


_UNPACK = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q8_0": _q8_0}


def _open_gguf(path: Path) -> Checkpoint:
    file = GgufFile(path)
    metadata, source = file.metadata, _Gguf(file)
    if not source.has("token_embd.weight"):
        raise SetupError(f"{path}: no token_embd.weight; is it a decoder?")
    architecture = shapes.from_gguf(
        metadata,
        vocabulary=source.rows("token_embd.weight"),
        is_tied=not source.has("output.weight"),
    )
    # The converter writes pairs for Llama only; Qwen2 keeps halves.
    are_pairs = architecture.kind == "llama"
    return Checkpoint(path, architecture, source, GGUF, "blk.", are_pairs, metadata)
