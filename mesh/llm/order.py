"""Reads what a head orders of a stage, and refuses what cannot be meant.

Pure. The order comes from another node: every number is checked before any memory is
asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mesh.errors import BadRequest
from mesh.llm.frames import LANES_MAX, Limits

FORMS = ("auto", "int4", "int8", "bfloat16", "float32")
LAYERS_MAX = 4096
TOKEN_BYTES = 16  # as `net.handover` has them


@dataclass(frozen=True, slots=True)
class Order:
    """Layers `[first, last)`, the limits of their frames, and where results go.

    `token` opens the tracks from the stage before, `next_token` those to the stage after: one
    for each of `lanes`, by a token made of it. See `decoder.Stage` for the rest.
    """

    first: int
    last: int
    limits: Limits
    form: str
    has_wide: bool
    next: str
    is_last: bool
    token: bytes = b""
    next_token: bytes = b""
    lanes: int = 1
    is_steady: bool = False


def lane_token(token: bytes, lane: int) -> bytes:
    """Return what opens the track of one lane; one tells nothing of the others."""
    return hashlib.sha256(token + bytes([lane])).digest()[:TOKEN_BYTES]


def write_order(order: Order) -> dict[str, Any]:
    """Return the order as it travels."""
    limits = order.limits
    return {
        "first": order.first,
        "last": order.last,
        "slots": limits.slots,
        "cap": limits.cap,
        "width": limits.width,
        "tokens_max": limits.tokens_max,
        "hidden": limits.hidden,
        "form": order.form,
        "has_wide": order.has_wide,
        "next": order.next,
        "is_last": order.is_last,
        "token": order.token,
        "next_token": order.next_token,
        "lanes": order.lanes,
        "is_steady": order.is_steady,
    }


def read_order(fields: Mapping[str, Any]) -> Order:
    """Return the order.

    Raises:
        BadRequest: it is none.
    """
    names = ("slots", "cap", "width", "tokens_max", "hidden")
    limits = Limits(*(fields.get(name) for name in names))  # type: ignore[arg-type]
    order = Order(
        first=fields.get("first"),  # type: ignore[arg-type]
        last=fields.get("last"),  # type: ignore[arg-type]
        limits=limits,
        form=fields.get("form"),  # type: ignore[arg-type]
        has_wide=bool(fields.get("has_wide")),
        next=fields.get("next"),  # type: ignore[arg-type]
        is_last=bool(fields.get("is_last")),
        token=fields.get("token"),  # type: ignore[arg-type]
        next_token=fields.get("next_token"),  # type: ignore[arg-type]
        lanes=fields.get("lanes"),  # type: ignore[arg-type]
        is_steady=bool(fields.get("is_steady")),
    )
    problems = [*limits.problems(), *_problems(order)]
    if problems:
        raise BadRequest("; ".join(problems))
    return order


def _problems(order: Order) -> list[str]:
    found = []
    are_numbers = type(order.first) is int and type(order.last) is int
    if not are_numbers or not 0 <= order.first < order.last <= LAYERS_MAX:
        found.append(f"layers: expected first < last, found {order.first!r}, {order.last!r}")
    if order.form not in FORMS:
        found.append(f"form: expected one of {', '.join(FORMS)}, found {order.form!r}")
    if not isinstance(order.next, str) or not order.next:
        found.append(f"next: expected an address, found {order.next!r}")
    tokens = (order.token, order.next_token)
    if not all(isinstance(token, bytes) and len(token) == TOKEN_BYTES for token in tokens):
        found.append(f"tokens: expected {TOKEN_BYTES} bytes each")
    if type(order.lanes) is not int or not 0 < order.lanes <= LANES_MAX:
        found.append(f"lanes: expected 1 to {LANES_MAX}, found {order.lanes!r}")
    return found
