"""Tiny random decoders, written as a hub would: config.json and safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

VOCABULARY = 96

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}
QWEN2 = LLAMA | {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "num_key_value_heads": 1,
    "tie_word_embeddings": False,
}
LLAMA3 = LLAMA | {
    "num_key_value_heads": 4,
    "head_dim": 32,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "tie_word_embeddings": False,
}
GPT2: dict[str, Any] = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 256,
    "vocab_size": VOCABULARY,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}
GPT2_UNTIED = GPT2 | {"tie_word_embeddings": False, "n_inner": 80}
KINDS = {
    "llama": LLAMA,
    "llama3": LLAMA3,
    "qwen2": QWEN2,
    "gpt2": GPT2,
    "gpt2-untied": GPT2_UNTIED,
}


def write_decoder(folder: Path, config: dict[str, Any], seed: int = 0) -> Path:
    """Write a random model of this configuration into a folder and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    random = torch.Generator().manual_seed(seed)
    shapes = _gpt2(config) if config["model_type"] == "gpt2" else _llama(config)
    tensors = {name: _numbers(name, shape, random) for name, shape in shapes.items()}
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


def write_talker(
    folder: Path, template: str = "", base: dict[str, Any] = LLAMA, **sizes: int
) -> Path:
    """Write a random model whose tokens are bytes, or as near as 96 of them come."""
    write_decoder(folder, base | {"vocab_size": 96} | sizes)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    printable = [letter for letter in letters if ord(letter) < 256][:80]
    names = ["<|endoftext|>", "<|im_end|>", *printable, "Ġ", "Ċ"]
    vocabulary = {name: at for at, name in enumerate(dict.fromkeys(names))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<|endoftext|>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>", "<|im_end|>"])
    backend.save(str(folder / "tokenizer.json"))
    if template:
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return folder


def _numbers(name: str, shape: tuple[int, ...], random: torch.Generator) -> torch.Tensor:
    """Return numbers large enough that greedy answers do not settle on one token."""
    noise = torch.randn(shape, generator=random)
    is_norm = "norm" in name or "ln_" in name
    if is_norm and name.endswith("weight"):
        return 1 + 0.2 * noise
    return 0.3 * noise if len(shape) == 2 else 0.2 * noise


def _llama(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    width, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or width // config["num_attention_heads"]
    rows = {
        "q": config["num_attention_heads"] * head,
        "k": config["num_key_value_heads"] * head,
        "v": config["num_key_value_heads"] * head,
    }
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, width),
        "model.norm.weight": (width,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (VOCABULARY, width)
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        for part, count in rows.items():
            shapes[f"{name}.self_attn.{part}_proj.weight"] = (count, width)
            if config["model_type"] == "qwen2":
                shapes[f"{name}.self_attn.{part}_proj.bias"] = (count,)
        shapes |= {
            f"{name}.self_attn.o_proj.weight": (width, rows["q"]),
            f"{name}.mlp.gate_proj.weight": (inner, width),
            f"{name}.mlp.up_proj.weight": (inner, width),
            f"{name}.mlp.down_proj.weight": (width, inner),
            f"{name}.input_layernorm.weight": (width,),
            f"{name}.post_attention_layernorm.weight": (width,),
        }
    return shapes


def _gpt2(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    width = config["n_embd"]
    inner = config.get("n_inner") or 4 * width
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (VOCABULARY, width),
        "transformer.wpe.weight": (config["n_positions"], width),
        "transformer.ln_f.weight": (width,),
        "transformer.ln_f.bias": (width,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (VOCABULARY, width)
    for layer in range(config["n_layer"]):
        name = f"transformer.h.{layer}"
        matrices = {  # Conv1D: [in, out]
            "attn.c_attn": (width, 3 * width),
            "attn.c_proj": (width, width),
            "mlp.c_fc": (width, inner),
            "mlp.c_proj": (inner, width),
        }
        for part, shape in matrices.items():
            shapes[f"{name}.{part}.weight"] = shape
            shapes[f"{name}.{part}.bias"] = shape[1:]
        for norm in ("ln_1", "ln_2"):
            shapes[f"{name}.{norm}.weight"] = (width,)
            shapes[f"{name}.{norm}.bias"] = (width,)
    return shapes
