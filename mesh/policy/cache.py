"""Which answers are kept: those used last, not too old, within a number and a size.

Pure. Keys are digests of content; `flow.answers` looks up before it computes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Generic, TypeVar

import msgspec

Value = TypeVar("Value")

DIGEST_BYTES = 16  # 2**64 items until two are expected to meet


class Cache(Generic[Value]):
    """Least recently used goes first.

    Args:
        items_max: most values.
        bytes_max: most bytes of all values together; a larger value is not kept at all.
        ttl_s: how long a value is good.
    """

    def __init__(self, items_max: int, bytes_max: int, ttl_s: float) -> None:
        self._items_max = items_max
        self._bytes_max = bytes_max
        self._ttl_s = ttl_s
        self._kept: OrderedDict[bytes, tuple[Value, int, float]] = OrderedDict()
        self.size_bytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes, now_s: float) -> Value | None:
        """Return the value kept under a key, None if there is none that is still good."""
        found = self._kept.get(key)
        if found is not None and now_s >= found[2]:
            self._drop(key)
            found = None
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(key)
        return found[0]

    def put(self, key: bytes, value: Value, size_bytes: int, now_s: float) -> None:
        """Keep a value, at the cost of those that were not used for longest."""
        if key in self._kept:
            self._drop(key)
        if size_bytes > self._bytes_max:
            return
        self._kept[key] = (value, size_bytes, now_s + self._ttl_s)
        self.size_bytes += size_bytes
        while len(self._kept) > self._items_max or self.size_bytes > self._bytes_max:
            self._drop(next(iter(self._kept)))
            self.evictions += 1

    def statistics(self) -> dict[str, int]:
        """Return the counts."""
        return {
            "items": len(self._kept),
            "bytes": self.size_bytes,
            "hits": self.hits,
            "misses": self.misses,
            "evictions": self.evictions,
        }

    def check(self) -> None:
        """Assert the limits and the sum."""
        assert len(self._kept) <= self._items_max
        assert self.size_bytes == sum(size for _, size, _ in self._kept.values())
        assert self.size_bytes <= self._bytes_max

    def _drop(self, key: bytes) -> None:
        _, size_bytes, _ = self._kept.pop(key)
        self.size_bytes -= size_bytes


def encoded(fields: Mapping[str, Any]) -> bytes:
    """Return the same bytes for equal fields, whatever the order of their names."""
    return _encoder.encode(fields)


def content_key(content: bytes) -> bytes:
    """Return the key of encoded fields."""
    return blake2b(content, digest_size=DIGEST_BYTES).digest()


def _plain(value: Any) -> Any:
    """Return an array as what tells it from every other array."""
    return [str(value.dtype), list(value.shape), value.tobytes()]


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain, order="deterministic")
