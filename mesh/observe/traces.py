"""Keeps the last traces of a node, and reads and makes W3C trace context.

Shell: holds state, and draws ids.
"""

from __future__ import annotations

import random
import re
from collections import OrderedDict
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

Trace = Mapping[str, Any]

_chance = random.Random()  # ids are no secrets, and each request draws two
_TRACEPARENT = re.compile(r"^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$")


class Traces:
    """The last `count_max` traces by id; the oldest are forgotten."""

    def __init__(self, count_max: int) -> None:
        assert count_max >= 1
        self._count_max = count_max
        self._traces: OrderedDict[str, Trace] = OrderedDict()

    def add(self, trace: Trace) -> None:
        """Keep a trace under its `id`; the same id again replaces the older one."""
        traces, trace_id = self._traces, trace["id"]
        if trace_id in traces:
            traces.move_to_end(trace_id)
        elif len(traces) >= self._count_max:
            traces.popitem(last=False)
        traces[trace_id] = trace

    def get(self, trace_id: str) -> Trace | None:
        """Return a trace, or None if it was never here or is forgotten."""
        return self._traces.get(trace_id)

    def __len__(self) -> int:
        return len(self._traces)


def begun(request_id: str) -> str:
    """Return the context of a request that came without one; equal for all hops of the request.

    Made where it leaves the node: most requests never do.
    """
    digest = blake2b(request_id.encode(), digest_size=24).hexdigest()
    return f"00-{digest[:32]}-{digest[32:]}-01"


def continued(traceparent: str) -> str:
    """Return the context for what this node does: the caller's trace, a new parent.

    A header that is missing or malformed starts a new trace, as the standard asks.

    Source:
        W3C Trace Context, level 1, section 3.2.
    """
    drawn = f"{_chance.getrandbits(192):048x}"  # one draw for both: half the time of two
    match = _TRACEPARENT.match(traceparent) if traceparent else None
    if match is None or match[1] == "ff" or not int(match[2], 16) or not int(match[3], 16):
        return f"00-{drawn[:32]}-{drawn[32:]}-01"
    return f"00-{match[2]}-{drawn[32:]}-{match[4]}"
