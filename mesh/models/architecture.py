"""What shape a decoder has: its family and sizes, read from a model's own configuration.

Pure arithmetic over plain values. Two families are known: `llama` (Llama, SmolLM2,
Mistral, Qwen2, Qwen2.5: rotary positions, RMS norm, gated feed-forward) and `gpt2`
(learned positions, layer norm, biases everywhere).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import pi
from typing import Any

from mesh.errors import SetupError

FAMILIES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "llama",
    "gpt2": "gpt2",
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of one decoder.

    Letters: `L` layers, `C` width, `H` heads, `K` kv-heads, `D` head width.

    Attributes:
        kind: what the checkpoint calls itself, e.g. "qwen2".
        family: "llama" or "gpt2".
        inner: width of the feed-forward part.
        context: positions the model was trained for.
        rope_scaling: the checkpoint's own table (`rope_type`, `factor`, …), or empty.
        is_tied: the output matrix is the embedding.
    """

    kind: str
    family: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    inner: int
    vocabulary: int
    context: int
    norm_eps: float
    rope_theta: float
    rope_scaling: tuple[tuple[str, Any], ...] = ()
    is_tied: bool = True
    end_tokens: tuple[int, ...] = ()

    @property
    def group(self) -> int:
        """Query heads per kv-head."""
        return self.heads // self.kv_heads


def from_hub(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture that a `config.json` describes.

    Raises:
        SetupError: the family is not known, or a part of it is not built.
    """
    kind = str(config.get("model_type", ""))
    family = FAMILIES.get(kind)
    if family is None:
        raise SetupError(f"model_type {kind!r} is not one of {sorted(FAMILIES)}")
    return (_gpt2_from_hub if family == "gpt2" else _llama_from_hub)(kind, config)


def _ends(config: Mapping[str, Any]) -> tuple[int, ...]:
    ends = config.get("eos_token_id")
    if ends is None:
        return ()
    return tuple(ends) if isinstance(ends, list | tuple) else (int(ends),)


def _llama_from_hub(kind: str, config: Mapping[str, Any]) -> Architecture:
    if config.get("hidden_act", "silu") != "silu":
        raise SetupError(f"hidden_act {config['hidden_act']!r}: only 'silu' is built")
    heads = int(config["num_attention_heads"])
    # transformers 5 writes `rope_parameters`, before it was `rope_theta` beside `rope_scaling`.
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = float(rope.pop("rope_theta", None) or config.get("rope_theta") or 10_000.0)
    return Architecture(
        kind=kind,
        family="llama",
        layers=int(config["num_hidden_layers"]),
        width=int(config["hidden_size"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_width=int(config.get("head_dim") or config["hidden_size"] // heads),
        inner=int(config["intermediate_size"]),
        vocabulary=int(config["vocab_size"]),
        context=int(config.get("max_position_embeddings", 2048)),
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_scaling=_scaling(rope),
        is_tied=bool(config.get("tie_word_embeddings", False)),
        end_tokens=_ends(config),
    )


def _scaling(rope: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type == "default":
        return ()
    if rope_type not in ("linear", "llama3"):
        raise SetupError(f"rope_type {rope_type!r}: only default, linear and llama3 are built")
    return tuple(sorted({**rope, "rope_type": rope_type}.items()))


def _gpt2_from_hub(kind: str, config: Mapping[str, Any]) -> Architecture:
    activation = config.get("activation_function", "gelu_new")
    if activation != "gelu_new":
        raise SetupError(f"activation_function {activation!r}: only 'gelu_new' is built")
    width, heads = int(config["n_embd"]), int(config["n_head"])
    return Architecture(
        kind=kind,
        family="gpt2",
        layers=int(config["n_layer"]),
        width=width,
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        inner=int(config.get("n_inner") or 4 * width),
        vocabulary=int(config["vocab_size"]),
        context=int(config.get("n_positions", 1024)),
        norm_eps=float(config.get("layer_norm_epsilon", 1e-5)),
        rope_theta=0.0,
        is_tied=bool(config.get("tie_word_embeddings", True)),
        end_tokens=_ends(config),
    )


def from_gguf(metadata: Mapping[str, Any], *, vocabulary: int, is_tied: bool) -> Architecture:
    """Return the architecture that the key-value head of a GGUF file describes.

    Raises:
        SetupError: the family is not known.
    """
    kind = str(metadata.get("general.architecture", ""))
    family = FAMILIES.get(kind)
    if family is None:
        raise SetupError(f"GGUF architecture {kind!r} is not one of {sorted(FAMILIES)}")

    def value(key: str, default: Any = None) -> Any:
        return metadata.get(f"{kind}.{key}", default)

    width, heads = int(value("embedding_length")), int(value("attention.head_count"))
    rms_eps = value("attention.layer_norm_rms_epsilon")
    rope = {"rope_type": "linear", "factor": value("rope.scaling.factor")}
    is_linear = value("rope.scaling.type") == "linear"
    end = metadata.get("tokenizer.ggml.eos_token_id")
    return Architecture(
        kind=kind,
        family=family,
        layers=int(value("block_count")),
        width=width,
        heads=heads,
        kv_heads=int(value("attention.head_count_kv", heads)),
        head_width=int(value("attention.key_length", width // heads)),
        inner=int(value("feed_forward_length")),
        vocabulary=vocabulary,
        context=int(value("context_length", 2048)),
        # Kept as float32 in the file: 9.999999747378752e-06 was 1e-5.
        norm_eps=float(f"{rms_eps or value('attention.layer_norm_epsilon', 1e-5):.7g}"),
        rope_theta=float(value("rope.freq_base", 10_000.0)) if family == "llama" else 0.0,
        rope_scaling=tuple(sorted(rope.items())) if is_linear else (),
        is_tied=is_tied,
        end_tokens=() if end is None else (int(end),),
    )


def frequencies(architecture: Architecture) -> list[float]:
    """Return the `D/2` angles, in radians per position, by which rotary pairs turn.

    Source: Su et al., RoFormer (arXiv 2104.09864), §3.2; the `llama3` stretch is Meta's:
    wave lengths beyond the old context are stretched by `factor`, short ones kept, those
    between blended.
    """
    half = architecture.head_width // 2
    plain = [architecture.rope_theta ** (-i / half) for i in range(half)]
    scaling = dict(architecture.rope_scaling)
    if not scaling:
        return plain
    if scaling["rope_type"] == "linear":
        return [angle / scaling["factor"] for angle in plain]
    return [_llama3(angle, scaling) for angle in plain]


def _llama3(angle: float, scaling: Mapping[str, Any]) -> float:
    factor, low, high = (
        float(scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor")
    )
    turns = float(scaling["original_max_position_embeddings"]) * angle / (2 * pi)
    if turns < low:
        return angle / factor
    if turns > high:
        return angle
    blend = (turns - low) / (high - low)
    return (1 - blend) * angle / factor + blend * angle


def layer_weights(architecture: Architecture) -> int:
    """Return how many numbers one layer holds, without norms and biases."""
    attention = architecture.width * architecture.head_width
    attention *= 2 * (architecture.heads + architecture.kv_heads)
    matrices = 3 if architecture.family == "llama" else 2
    return attention + matrices * architecture.width * architecture.inner


def check(architecture: Architecture) -> None:
    """Raise a `SetupError` where sizes do not fit together."""
    problems = []
    if architecture.heads % architecture.kv_heads:
        problems.append(f"{architecture.heads} heads do not divide by {architecture.kv_heads}")
    if architecture.family == "llama" and architecture.head_width % 2:
        problems.append(f"rotary positions need an even head width, not {architecture.head_width}")
    if min(architecture.layers, architecture.width, architecture.vocabulary) < 1:
        problems.append("a size of the model is zero")
    if problems:
        raise SetupError(*problems)
