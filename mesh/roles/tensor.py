"""Runs the five-layer tensor engine on a batch of inputs, whole or by columns of W.

Shell: a role. Without `parts` it answers a whole request. With `parts = n` and `part = i` it
holds only its share of W's columns and answers one layer of them: whoever asks all parts and
joins their columns, five times over, has what the whole engine answers, to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import msgspec
import numpy as np

from mesh.errors import SetupError, Unprocessable
from mesh.models.tensor import WIDTH, Layers, columns_of, enter, forward
from mesh.roles.base import Context, Role
from mesh.wire.messages import Fields


class Tensor(Role):
    """`input_data`, numbers in a list or array of any shape, to `output_data`.

    Or `body`, a request as it came in at a door that did not read it: `form` says whether it
    is "json", an object with `input_data`, or "float32", nothing but little-endian numbers.
    With `input_shape` the numbers must be as many as it says.

    Only the first 1024 numbers count; fewer are padded with zeros. A part takes and gives
    the 1024 values between two layers, of which it gives its own columns.
    """

    takes: ClassVar[Mapping[str, Any]] = {
        "input_data": list | np.ndarray | None,
        "input_shape": list | None,
        "body": bytes | None,
        "form": str | None,
    }
    gives: ClassVar[tuple[str, ...]] = ("output_data", "request_id")
    options: ClassVar[Mapping[str, Any]] = {"shard": 0, "part": 0, "parts": 1}

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        chosen = {**self.options, **context.options}
        self._shard, self._part, self._parts = (chosen[key] for key in ("shard", "part", "parts"))
        if not 0 <= self._part < self._parts <= WIDTH:
            raise SetupError(
                f"roles.{context.role}: expected 0 <= part < parts <= {WIDTH}, "
                f"found part = {self._part}, parts = {self._parts}"
            )

    def load(self) -> None:
        """Draw W, and keep the columns that are this role's."""
        self._layers = Layers(self._shard, columns_of(self._part, self._parts))

    def run(self, batch: Sequence[Fields]) -> Sequence[Fields | Exception]:
        """Answer the readable items in one product; the others with what is wrong with them."""
        read = [opened(item) for item in batch]
        rows = [one[0] for one in read if not isinstance(one, Exception)]
        outputs = iter(self._compute(np.stack(rows)) if rows else ())
        return [
            one if isinstance(one, Exception) else _named({"output_data": next(outputs)}, one[1])
            for one in read
        ]

    def _compute(self, rows: np.ndarray) -> np.ndarray:
        if self._parts == 1:
            return forward(self._layers, rows)
        return self._layers.step(*enter(rows))

    def statistics(self) -> dict[str, Any]:
        """Return which weights this role holds."""
        return {
            "shard": self._shard,
            "part": self._part,
            "parts": self._parts,
            "weights_bytes": self._layers.resident_bytes,
        }


def opened(item: Fields) -> tuple[np.ndarray, str | None] | Unprocessable:
    """Return an item's row and the id in its body, or what is wrong with it."""
    known = _opened(item)
    if isinstance(known, Exception):
        return known
    row = _read(known["input_data"])
    return row if isinstance(row, Exception) else (row, known.get("request_id"))


class _Asked(msgspec.Struct):
    """What is read of a body of JSON; 150,528 numbers in 3.6 ms."""

    input_data: list[float]
    input_shape: list[int] | None = None
    request_id: str | None = None


_JSON = msgspec.json.Decoder(_Asked)


def _opened(item: Fields) -> Fields | Unprocessable:
    """Return the item with its numbers, out of the body where it has one."""
    body, shape = item.get("body"), item.get("input_shape")
    known: Fields = item
    if body is not None and item.get("form") == "float32":
        if len(body) % 4:
            what = f"{len(body)} bytes; JSON is sent as application/json"
            return Unprocessable(f"expected float32, 4 bytes each, found {what}")
        known = {"input_data": np.frombuffer(body, "<f4")}
    elif body is not None:
        try:
            asked = _JSON.decode(body)
        except (msgspec.MsgspecError, RecursionError) as error:
            return Unprocessable(f"the body: {str(error).replace('`', '')}")
        shape = asked.input_shape
        known = {"input_data": asked.input_data, "request_id": asked.request_id}
    if known.get("input_data") is None:
        return Unprocessable("input_data: expected numbers, found none")
    return _misshapen(known["input_data"], shape) or known


def _misshapen(values: Any, shape: Sequence[Any] | None) -> Unprocessable | None:
    if shape is None:
        return None
    if not all(type(side) is int and side >= 0 for side in shape):
        return Unprocessable("input_shape: expected whole numbers of 0 or more")
    wanted = prod(shape)
    found = values.size if isinstance(values, np.ndarray) else len(values)
    if wanted == found:
        return None
    return Unprocessable(f"input_data: expected {wanted} numbers for {shape}, found {found}")


def _named(answer: Fields, request_id: str | None) -> Fields:
    return answer if request_id is None else answer | {"request_id": request_id}


def _read(values: Any) -> np.ndarray | Unprocessable:
    """Return the first WIDTH numbers as a row, padded with zeros, or what is wrong with them."""
    head = values.reshape(-1)[:WIDTH] if isinstance(values, np.ndarray) else _head(values)
    try:
        given = np.asarray(head, dtype=np.float64)
    except (TypeError, ValueError):
        return Unprocessable("input_data: expected numbers, found something else among them")
    if given.ndim != 1:
        return Unprocessable(f"input_data: expected a flat list, found {given.ndim} dimensions")
    if not np.isfinite(given).all():
        return Unprocessable("input_data: expected finite numbers, found NaN or infinity")
    row = np.zeros(WIDTH)
    row[: given.size] = given
    return row


def _head(values: Any) -> Any:
    """Cut before converting: a list of 150,528 numbers costs what its first 1024 do."""
    return values[:WIDTH] if isinstance(values, list | tuple) else [values]
