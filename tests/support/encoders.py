"""Builds tiny sentence encoders with random weights, in the folders that real ones come in."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,?!"
WIDTH, HEADS, LAYERS, POSITIONS = 32, 4, 2, 48


def tiny_encoder(folder: Path, *, kind: str = "bert", pooling: str = "mean") -> Path:
    """Write a random encoder of letters; `kind` is its model type, `pooling` mean or cls."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *LETTERS, *(f"##{one}" for one in LETTERS)]
    _tokenizer(words).save(str(folder / "tokenizer.json"))
    config = {
        "model_type": kind,
        "architectures": ["BertModel" if kind == "bert" else "XLMRobertaModel"],
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "vocab_size": len(words),
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    takes = {
        f"pooling_mode_{name}": name.startswith(pooling) for name in ("cls_token", "mean_tokens")
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(takes))
    save_file(_weights(len(words)), folder / "model.safetensors", {"format": "pt"})
    return folder


def _tokenizer(words: list[str]) -> Tokenizer:
    vocabulary = {word: at for at, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    tokenizer.enable_padding(length=POSITIONS)  # as some real ones come; must change nothing
    return tokenizer


def _weights(words: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random) * 0.2

    def norm(name: str) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": 1 + draw(WIDTH), f"{name}.bias": draw(WIDTH)}

    def dense(name: str, out: int, into: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": draw(out, into), f"{name}.bias": draw(out)}

    found = {
        "embeddings.word_embeddings.weight": draw(words, WIDTH),
        "embeddings.position_embeddings.weight": draw(POSITIONS, WIDTH),
        "embeddings.token_type_embeddings.weight": draw(2, WIDTH),
        **norm("embeddings.LayerNorm"),
    }
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            found |= dense(f"{at}.attention.self.{name}", WIDTH, WIDTH)
        found |= dense(f"{at}.attention.output.dense", WIDTH, WIDTH)
        found |= norm(f"{at}.attention.output.LayerNorm")
        found |= dense(f"{at}.intermediate.dense", 2 * WIDTH, WIDTH)
        found |= dense(f"{at}.output.dense", WIDTH, 2 * WIDTH)
        found |= norm(f"{at}.output.LayerNorm")
    return found
