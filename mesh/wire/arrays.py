"""Writes values as MessagePack with arrays raw behind it, and reads them back.

Pure. A body without arrays is plain MessagePack. With arrays it is

    | header length u32 | header: MessagePack | 0 … | array | 0 … | array | …

where each array begins at a multiple of `ALIGN_BYTES` and the header has an
extension in its place: (dtype, shape, offset). Arrays are read as views into the
body. NumPy is imported when the first array arrives, not before: an idle node
stays small.
"""

from __future__ import annotations

import sys
from math import prod
from struct import Struct
from typing import Any, Generic, TypeVar

import msgspec

from mesh.errors import LocalProtocolError, RemoteProtocolError
from mesh.wire.frames import Buffer

ALIGN_BYTES = 64  # a cache line, and the widest vector register
ARRAY_EXTENSION = 1  # MessagePack extension type
AXES_MAX = 16
# Plain numbers only: an object array would be pickle by another name.
DTYPES = frozenset(
    f"{order}{kind}"
    for order in "<>"
    for kind in ("i2", "i4", "i8", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
) | {"|b1", "|i1", "|u1"}

_LENGTH = Struct("<I")
_BAD_VALUE = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)
_BAD_BYTES = (*_BAD_VALUE, MemoryError)

Value = TypeVar("Value")


class _Place(msgspec.Struct, frozen=True, array_like=True):
    """Where an array lies behind the header, and what it is."""

    dtype: str
    shape: tuple[int, ...]
    offset: int  # from the beginning of the first array


_PLACE = msgspec.msgpack.Decoder(_Place)


class Encoder:
    """Values to bodies."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._set_aside)
        self._places = msgspec.msgpack.Encoder()
        self._arrays: list[Buffer] = []
        self._bytes = 0

    def encode(self, value: Any) -> bytes | list[Buffer]:
        """Return one body: bytes, or several buffers if it carries arrays.

        Large arrays are not copied: they must not change before they have left.

        Raises:
            LocalProtocolError: `value` holds something that cannot travel.
        """
        try:
            header = self._encoder.encode(value)
            if not self._arrays:
                return header
            before = _LENGTH.size + len(header)
            head = _LENGTH.pack(len(header)) + header + bytes(-before % ALIGN_BYTES)
            return [head, *self._arrays]
        except _BAD_VALUE as error:
            raise LocalProtocolError(f"a value cannot travel between nodes: {error}") from error
        finally:
            if self._arrays:
                self._arrays = []
                self._bytes = 0

    def _set_aside(self, value: Any) -> Any:
        """Put an array behind the header and return what stands in its place."""
        numpy = sys.modules.get("numpy")
        if numpy is None or not isinstance(value, (numpy.ndarray, numpy.generic)):
            raise LocalProtocolError(f"a value cannot travel between nodes: {type(value)!r}")
        if isinstance(value, numpy.generic):
            return value.item()
        if value.dtype.str not in DTYPES or value.ndim > AXES_MAX:
            raise LocalProtocolError(
                f"expected an array of numbers with at most {AXES_MAX} axes,"
                f" found dtype {value.dtype!r}, {value.ndim} axes"
            )
        place = _Place(value.dtype.str, value.shape, self._bytes)
        flat = numpy.ascontiguousarray(value).reshape(-1).view(numpy.uint8)
        padding = bytes(-flat.nbytes % ALIGN_BYTES)
        self._arrays += (memoryview(flat), padding) if padding else (memoryview(flat),)
        self._bytes += flat.nbytes + len(padding)
        return msgspec.msgpack.Ext(ARRAY_EXTENSION, self._places.encode(place))


class Decoder(Generic[Value]):
    """Bodies to values of one type."""

    def __init__(self, kind: type[Value]) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind, ext_hook=self._restore)
        self._arrays: memoryview | None = None

    def decode(self, body: Buffer, has_arrays: bool = False) -> Value:
        """Return the value; its arrays are views into `body`.

        Raises:
            RemoteProtocolError: `body` is not what it should be.
        """
        try:
            if not has_arrays:
                return self._decoder.decode(body)
            return self._decode_with_arrays(memoryview(body))
        except _BAD_BYTES as error:
            raise RemoteProtocolError(f"unreadable message: {error}") from error

    def _decode_with_arrays(self, body: memoryview) -> Value:
        if len(body) < _LENGTH.size:
            raise RemoteProtocolError("a message with arrays is shorter than its own length")
        end = _LENGTH.size + _LENGTH.unpack_from(body)[0]
        if end > len(body):
            raise RemoteProtocolError("the header of a message is longer than the message")
        self._arrays = body[end + -end % ALIGN_BYTES :]
        try:
            return self._decoder.decode(body[_LENGTH.size : end])
        finally:
            self._arrays = None

    def _restore(self, code: int, data: memoryview) -> Any:
        if code != ARRAY_EXTENSION or self._arrays is None:
            raise RemoteProtocolError(f"expected an array, found extension {code}")
        return _view(self._arrays, _PLACE.decode(data))


def _view(arrays: memoryview, place: _Place) -> Any:
    """Return the array at `place`."""
    import numpy

    if place.dtype not in DTYPES or len(place.shape) > AXES_MAX:
        raise RemoteProtocolError(f"expected an array of numbers, found {place!r}")
    if min(place.shape, default=0) < 0 or place.offset < 0 or place.offset % ALIGN_BYTES:
        raise RemoteProtocolError(f"an array has no such place: {place!r}")
    dtype = numpy.dtype(place.dtype)
    length = prod(place.shape) * dtype.itemsize
    if place.offset + length > len(arrays):
        raise RemoteProtocolError("an array ends beyond its message")
    part = arrays[place.offset : place.offset + length]
    return numpy.ndarray(place.shape, dtype, buffer=part)
