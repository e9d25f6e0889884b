"""Reads and writes tensors as the Open Inference Protocol has them: in JSON, or as bytes behind it.

Pure. Imported by `api.protocol` with the first tensor that comes: NumPy makes a node larger.

    body:  JSON | tensor | tensor | …      the JSON's length stands in a header

Source: Open Inference Protocol v2, `inference_rest.md`; Triton's `extension_binary_data.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from struct import Struct, error
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from mesh.errors import BadRequest
from mesh.wire.wording import sentence

BYTES = "BYTES"  # elements of any length; here always text
DTYPES: Mapping[str, str] = {
    "BOOL": "|b1",
    "UINT8": "|u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "|i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
AXES_MAX = 16
TENSORS_MAX = 64
_LENGTH = Struct("<I")

Axis = Annotated[int, Meta(ge=0, le=2**40)]


class Tensor(msgspec.Struct, frozen=True):
    """An input, as the JSON says it."""

    name: str
    shape: Annotated[list[Axis], Meta(max_length=AXES_MAX)]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class Wished(msgspec.Struct, frozen=True):
    """An output that is wanted."""

    name: str
    parameters: dict[str, Any] | None = None


class Inference(msgspec.Struct, frozen=True):
    """The JSON of a request."""

    inputs: Annotated[list[Tensor], Meta(min_length=1, max_length=TENSORS_MAX)]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[Wished] | None = None

    def wants_bytes(self, name: str) -> bool:
        """Return whether an output is to come as bytes."""
        default = bool((self.parameters or {}).get("binary_data_output", False))
        for wished in self.outputs or ():
            if wished.name == name:
                return bool((wished.parameters or {}).get("binary_data", default))
        return default

    def wants(self, name: str) -> bool:
        """Return whether an output is wanted at all; no list wants all."""
        return not self.outputs or any(wished.name == name for wished in self.outputs)


def read(raw: bytes, head_bytes: int | None) -> tuple[Inference, dict[str, Any]]:
    """Return a request and its inputs: arrays of numbers, or lists of texts.

    Args:
        raw: the body.
        head_bytes: length of its JSON; None: all of it.

    Raises:
        BadRequest: with the input that is wrong.
    """
    head = raw if head_bytes is None else raw[:head_bytes]
    if head_bytes is not None and not 0 < head_bytes <= len(raw):
        raise BadRequest(f"the body has {len(raw)} bytes, its JSON is said to have {head_bytes}")
    try:
        asked = msgspec.json.decode(head, type=Inference)
    except msgspec.ValidationError as problem:
        raise BadRequest(sentence(problem, "")) from problem
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as problem:
        raise BadRequest(f"the body is not JSON: {problem}") from problem
    rest = memoryview(raw)[len(head) :]
    values: dict[str, Any] = {}
    for tensor in asked.inputs:
        if tensor.name in values:
            raise BadRequest(f"input {tensor.name!r} came twice")
        size = (tensor.parameters or {}).get("binary_data_size")
        if size is None:
            values[tensor.name] = _from_json(tensor)
            continue
        if type(size) is not int or not 0 <= size <= len(rest):
            raise BadRequest(f"input {tensor.name!r}: {size!r} bytes, of {len(rest)} that are left")
        values[tensor.name] = _from_bytes(tensor, rest[:size])
        rest = rest[size:]
    if len(rest):
        raise BadRequest(f"{len(rest)} bytes are left behind the last input")
    return asked, values


def write(
    about: Mapping[str, Any], outputs: Mapping[str, Any], asked: Inference
) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Return the outputs as JSON values, and the bytes that follow the JSON.

    Args:
        about: names of outputs, with their datatypes.
        outputs: arrays of numbers, or lists of texts, the first axis being the items.
        asked: says which are wanted, and how.
    """
    told: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, datatype in about.items():
        if not asked.wants(name):
            continue
        value = outputs[name]
        if datatype != BYTES:
            value = np.asarray(value, DTYPES[datatype])
        shape = [len(value)] if datatype == BYTES else list(value.shape)
        one: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if asked.wants_bytes(name):
            blob = _packed(value) if datatype == BYTES else value.tobytes()
            blobs.append(blob)
            one["parameters"] = {"binary_data_size": len(blob)}
        else:
            one["data"] = value if datatype == BYTES else value.ravel()
        told.append(one)
    return told, blobs


def _from_json(tensor: Tensor) -> Any:
    if tensor.data is None:
        raise BadRequest(f"input {tensor.name!r} has neither data nor binary_data_size")
    wanted = prod(tensor.shape)
    if tensor.datatype == BYTES:
        texts = list(_flat(tensor.data))
        if len(texts) != wanted or not all(isinstance(text, str) for text in texts):
            raise BadRequest(f"input {tensor.name!r}: expected {wanted} texts")
        return texts
    try:
        values = np.asarray(tensor.data, _dtype(tensor))
    except (ValueError, TypeError, OverflowError) as problem:
        what = f"expected numbers of type {tensor.datatype}"
        raise BadRequest(f"input {tensor.name!r}: {what}; {problem}") from problem
    return _shaped(tensor, values)


def _from_bytes(tensor: Tensor, blob: memoryview) -> Any:
    if tensor.datatype == BYTES:
        return _unpacked(tensor, bytes(blob))
    dtype = np.dtype(_dtype(tensor))
    if len(blob) != prod(tensor.shape) * dtype.itemsize:
        what = f"{len(blob)} bytes are no {tensor.shape} of {tensor.datatype}"
        raise BadRequest(f"input {tensor.name!r}: {what}")
    return _shaped(tensor, np.frombuffer(blob, dtype))


def _dtype(tensor: Tensor) -> str:
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        known = ", ".join([*DTYPES, BYTES])
        found = tensor.datatype[:20]
        raise BadRequest(f"input {tensor.name!r}: datatype {found!r} is none of {known}")
    return dtype


def _shaped(tensor: Tensor, values: np.ndarray) -> np.ndarray:
    if values.size != prod(tensor.shape):
        what = f"{values.size} numbers are no {tensor.shape}"
        raise BadRequest(f"input {tensor.name!r}: {what}")
    return values.reshape(tensor.shape)


def _flat(data: Sequence[Any]) -> Sequence[Any]:
    """Return the elements of a list that may be nested, row by row."""
    while data and isinstance(data[0], list):
        data = [each for row in data for each in (row if isinstance(row, list) else [row])]
    return data


def _packed(texts: Sequence[str]) -> bytes:
    """Return texts, each behind its length."""
    coded = [text.encode() for text in texts]
    return b"".join(part for each in coded for part in (_LENGTH.pack(len(each)), each))


def _unpacked(tensor: Tensor, blob: bytes) -> list[str]:
    texts: list[str] = []
    at = 0
    try:
        while at < len(blob):
            (size,) = _LENGTH.unpack_from(blob, at)
            at += _LENGTH.size + size
            if at > len(blob):
                raise BadRequest(f"input {tensor.name!r}: its last text is cut off")
            texts.append(blob[at - size : at].decode())
    except (error, UnicodeDecodeError) as problem:
        raise BadRequest(f"input {tensor.name!r}: expected UTF-8 behind lengths") from problem
    if len(texts) != prod(tensor.shape):
        raise BadRequest(f"input {tensor.name!r}: {len(texts)} texts are no {tensor.shape}")
    return texts
