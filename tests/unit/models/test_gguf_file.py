"""The head of a GGUF file reads as the package reads it, and garbage is a clear error."""

from __future__ import annotations

from contextlib import suppress

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import SetupError
from mesh.models.gguf_file import GgufFile


def write(path):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(3)
    writer.add_array("some.words", ["a", "é", ""])
    writer.add_array("some.numbers", [1, -2, 3])
    writer.add_float32("a.float", 0.5)
    writer.add_bool("a.bool", True)
    writer.add_tensor("small", np.arange(6, dtype=np.float32).reshape(2, 3))
    wide = np.arange(128, dtype=np.float32).reshape(2, 64)
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("blocks", gguf.quants.quantize(wide, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("gguf") / "m.gguf")


def test_it_reads_what_the_packages_reader_reads(path):
    ours, theirs = GgufFile(path), gguf.GGUFReader(path)
    for name, field in theirs.fields.items():
        if not name.startswith("GGUF."):
            assert ours.metadata[name] == field.contents()
    assert set(ours.places) == {tensor.name for tensor in theirs.tensors}
    for tensor in theirs.tensors:
        assert ours.places[tensor.name].kind == tensor.tensor_type.name
        assert ours.places[tensor.name].shape == tuple(reversed(tensor.shape.tolist()))
        assert ours.read(tensor.name).tobytes() == tensor.data.tobytes()


def test_a_file_cut_short_is_said(path, tmp_path):
    short = tmp_path / "short.gguf"
    short.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(SetupError, match="ends before tensor"):
        GgufFile(short)


@given(st.data())
def test_any_change_of_the_head_reads_or_is_a_setup_error(path, tmp_path_factory, data):
    """Never another error, never endless: whatever the bytes say."""
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, 400))] = data.draw(st.integers(0, 255))
    changed = tmp_path_factory.mktemp("changed") / "m.gguf"
    changed.write_bytes(raw)
    with suppress(SetupError):
        GgufFile(changed)


def test_an_empty_file_is_said(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"")
    with pytest.raises(SetupError, match="not a GGUF file"):
        GgufFile(tmp_path / "m.gguf")
