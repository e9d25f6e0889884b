"""Tensors come out of both kinds of file under one name and in one layout."""

from __future__ import annotations

import json

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mesh.errors import SetupError
from mesh.models.checkpoint import dense, open_checkpoint
from mesh.models.decoder import Stage
from mesh.models.ends import Ends
from mesh.models.quantize import Blocks
from tests.support.decoders import GPT2, LLAMA, write_decoder


def as_pairs(matrix, head_width):
    """Reorder rows (i, i + D/2) of each head to (2i, 2i+1), as llama.cpp's converter does."""
    heads = matrix.shape[0] // head_width
    halves = matrix.reshape(heads, 2, head_width // 2, *matrix.shape[1:])
    return halves.swapaxes(1, 2).reshape(matrix.shape)


def write_gguf(path, folder, kind=gguf.GGMLQuantizationType.F32):
    """Write the tiny Llama of a folder as llama.cpp's converter would."""
    tensors = {name: each.numpy() for name, each in load_file(folder / "model.safetensors").items()}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(3)
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_eos_token_id(2)
    names = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output"}
    names |= {"gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}
    for name, tensor in tensors.items():
        theirs, part = name, name.split(".")[-2].removesuffix("_proj")
        if name.startswith("model.layers."):
            layer = name.split(".")[2]
            part = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}.get(
                part, names.get(part, part)
            )
            theirs = f"blk.{layer}.{part}.weight"
        theirs = {"model.embed_tokens.weight": "token_embd.weight"}.get(theirs, theirs)
        theirs = {"model.norm.weight": "output_norm.weight"}.get(theirs, theirs)
        if "attn_q" in theirs or "attn_k" in theirs:
            tensor = as_pairs(tensor, 16)
        is_matrix = tensor.ndim == 2
        used = kind if is_matrix else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(np.ascontiguousarray(tensor), used)
        writer.add_tensor(theirs, data, raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_decoder(tmp_path_factory.mktemp("llama"), LLAMA)


def whole(checkpoint):
    stage = Stage(checkpoint, 0, 3, form="float32", slots=1, cap=64)
    return stage, Ends(checkpoint, form="float32")


@torch.inference_mode()
def test_gguf_and_safetensors_of_one_model_give_one_result(tmp_path, folder):
    ours = open_checkpoint(write_gguf(tmp_path / "m.gguf", folder))
    theirs = open_checkpoint(folder)
    assert ours.architecture == theirs.architecture
    results = []
    for checkpoint in (ours, theirs):
        stage, ends = whole(checkpoint)
        results.append(stage.prefill(ends.embed([3, 1, 4, 1, 5], range(5)), 0, 0))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "Q5_0", "F16"])
def test_quantised_blocks_are_what_gguf_py_makes_of_them(tmp_path, folder, kind):
    type_ = gguf.GGMLQuantizationType[kind]
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", folder, type_))
    found = checkpoint.read("layers.1.up.weight")
    matrix = load_file(folder / "model.safetensors")["model.layers.1.mlp.up_proj.weight"].numpy()
    expected = gguf.quants.dequantize(gguf.quants.quantize(matrix, type_), type_)
    torch.testing.assert_close(dense(found), torch.from_numpy(expected).float())
    assert isinstance(found, Blocks) == (kind in ("Q4_0", "Q4_1", "Q8_0"))


def test_an_index_of_shards_is_followed(tmp_path, folder):
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, part in shards.items():
        save_file({name: tensors[name] for name in part}, str(tmp_path / shard))
    where = {name: shard for shard, part in shards.items() for name in part}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    one, two = open_checkpoint(folder), open_checkpoint(tmp_path)
    for name in ("embed.weight", "layers.2.q.weight", "final_norm.weight"):
        torch.testing.assert_close(one.read(name), two.read(name))


def test_only_what_is_asked_for_is_read(folder, monkeypatch):
    checkpoint = open_checkpoint(folder)
    read = []
    real = checkpoint.source.read
    monkeypatch.setattr(checkpoint.source, "read", lambda name: (read.append(name), real(name))[1])
    Stage(checkpoint, 1, 2, form="float32", slots=1, cap=64)
    assert read
    assert all(name.startswith("model.layers.1.") for name in read)


def test_gpt2_matrices_are_turned(tmp_path):
    folder = write_decoder(tmp_path, GPT2)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.read("layers.0.qkv.weight").shape == (192, 64)
    assert checkpoint.read("layers.0.up.weight").shape == (256, 64)
    assert not checkpoint.has("layers.0.gate.weight")


def test_what_cannot_be_used_is_said(tmp_path, folder):
    with pytest.raises(SetupError, match=r"expected a \.gguf file, or a folder with config\.json"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"model_type": "mamba"}))
    with pytest.raises(SetupError, match="model_type 'mamba' is not one of"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    with pytest.raises(SetupError, match=r"no \*\.safetensors file"):
        open_checkpoint(tmp_path)
    with pytest.raises(SetupError, match=r"tensor 'layers\.9\.q\.weight'"):
        open_checkpoint(folder).read("layers.9.q.weight")
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"num_attention_heads": 5}))
    save_file({"x": torch.zeros(1)}, str(tmp_path / "model.safetensors"))
    with pytest.raises(SetupError, match="5 heads do not divide by 2"):
        open_checkpoint(tmp_path)
