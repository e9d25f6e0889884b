"""Values and arrays come back as they went, without a copy; anything else is refused."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from mesh.errors import LocalProtocolError, RemoteProtocolError
from mesh.wire.arrays import ALIGN_BYTES, ARRAY_EXTENSION, DTYPES, Decoder, Encoder
from mesh.wire.messages import Piece

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
ARRAYS = st_numpy.arrays(
    st.sampled_from(sorted(DTYPES)).map(np.dtype),
    st_numpy.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)


def there_and_back(piece: Piece) -> Piece:
    body = Encoder().encode(piece)
    if isinstance(body, bytes):
        return Decoder(Piece).decode(body)
    return Decoder(Piece).decode(bytearray(b"".join(body)), has_arrays=True)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
def test_values_come_back(fields: dict[str, object]) -> None:
    """decode(encode(fields)) == fields."""
    assert there_and_back(Piece(fields)).fields == fields


@given(st.dictionaries(st.text(max_size=5), ARRAYS, max_size=4), VALUES)
def test_arrays_come_back(arrays: dict[str, np.ndarray], value: object) -> None:
    """Type, shape and every bit of each array, beside other values."""
    found = there_and_back(Piece({**arrays, "value": value})).fields
    assert found.pop("value") == value
    assert found.keys() == (arrays.keys() - {"value"})
    for name, array in found.items():
        assert (array.dtype, array.shape) == (arrays[name].dtype, arrays[name].shape)
        assert array.tobytes() == arrays[name].tobytes()


def test_arrays_are_writable_views_at_aligned_places() -> None:
    sent = np.arange(100, dtype=np.float32), np.arange(7, dtype=np.int8), np.zeros((2, 3))
    body = bytearray(b"".join(Encoder().encode(Piece({"x": list(sent)}))))
    found = Decoder(Piece).decode(body, has_arrays=True).fields["x"]
    base = np.frombuffer(body, np.uint8).ctypes.data
    for array in found:
        assert (array.ctypes.data - base) % ALIGN_BYTES == 0
        assert not array.flags.owndata
        assert array.flags.writeable


def test_layouts_that_are_not_contiguous_come_back() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    for sent in (array.T, array[:, ::2], array[::-1], np.asfortranarray(array), array[0, 0, :0]):
        np.testing.assert_array_equal(sent, there_and_back(Piece({"x": sent})).fields["x"])


def test_scalars_of_numpy_become_those_of_python() -> None:
    fields = there_and_back(
        Piece({"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(1)})
    ).fields
    assert {"a": 0.5, "b": 3, "c": True} == fields
    assert [float, int, bool] == [type(value) for value in fields.values()]


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]),
        np.array(["text"]),
        np.zeros(2, dtype=[("a", "i4")]),
        np.zeros(2, dtype="datetime64[s]"),
        object(),
        1 << 64,
        {(1, 2): {3: object()}},
    ],
    ids=str,
)
def test_what_cannot_travel_is_refused_here(value: object) -> None:
    encoder = Encoder()
    with pytest.raises(LocalProtocolError):
        encoder.encode(Piece({"fine": np.zeros(3), "value": value}))
    # Nothing of the attempt is left behind.
    assert isinstance(encoder.encode(Piece({"a": 1})), bytes)


def crafted(place: object, data: bytes = bytes(64)) -> bytearray:
    """Return a body whose header has `place` as an array's."""
    ext = msgspec.msgpack.Ext(ARRAY_EXTENSION, msgspec.msgpack.encode(place))
    header = msgspec.msgpack.encode({"fields": {"x": ext}})
    body = bytearray(len(header).to_bytes(4, "little") + header)
    body += bytes(-len(body) % ALIGN_BYTES)
    return body + data


@pytest.mark.parametrize(
    "place",
    [
        ["|O", [1], 0],
        ["<U4", [1], 0],
        ["float32", [1], 0],
        ["<f4", [17], 0],
        ["<f4", [1 << 62, 1 << 62], 0],
        ["<f4", [-1], 0],
        ["<f4", [1], -64],
        ["<f4", [1], 1],
        ["<f4", [1], 64],
        ["<f4", [1] * 17, 0],
        ["<f4", [0, 1 << 62, 1 << 62], 0],
        ["<f4", "1", 0],
        ["<f4"],
        None,
    ],
    ids=str,
)
def test_places_that_cannot_be_are_refused(place: object) -> None:
    with pytest.raises(RemoteProtocolError):
        Decoder(Piece).decode(crafted(place), has_arrays=True)


def test_the_crafted_body_is_otherwise_right() -> None:
    assert 16 == len(Decoder(Piece).decode(crafted(["<f4", [16], 0]), True).fields["x"])


@given(st.binary(max_size=100), st.booleans())
def test_garbage_raises_one_error_only(body: bytes, has_arrays: bool) -> None:
    """Any bytes are a value or a `RemoteProtocolError`."""
    with contextlib.suppress(RemoteProtocolError):
        Decoder(Piece).decode(bytearray(body), has_arrays)


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa0", b"\x81\x91"])
def test_deep_nesting_is_refused(opening: bytes) -> None:
    header = b"\x81\xa6fields\x81\xa1x" + opening * 100_000 + b"\xc0"
    with pytest.raises(RemoteProtocolError):
        Decoder(Piece).decode(header)


@pytest.mark.slow
def test_numpy_is_not_imported_by_what_has_no_arrays() -> None:
    code = (
        "import sys; from mesh.wire.arrays import *; from mesh.wire.messages import *;"
        "Decoder(Piece).decode(Encoder().encode(Piece({'a': 1})));"
        "import mesh.wire.connection, mesh.net.peers; assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
