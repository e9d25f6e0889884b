"""Which news travels next: the least sent first, each a bounded number of times.

Pure. News waits here until a packet has room for it. There is one place per
member, so newer news replaces older, and the queue can never outgrow the mesh.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from mesh.gossip.member import News

_MISSES_MAX = 8  # how many rumours that do not fit are looked at before a packet counts as full


def news_bytes(news: News) -> int:
    """Return how many bytes `news` takes in a packet."""
    return len(msgspec.msgpack.encode(news))


class Rumours:
    """News to pass on, in buckets by how often it was sent."""

    def __init__(self) -> None:
        self._buckets: list[dict[str, tuple[News, int]]] = [{}]
        self._sends: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._sends)

    def __contains__(self, member: str) -> bool:
        return member in self._sends

    def put(self, news: News) -> None:
        """Queue `news`, in place of what was queued about the same member."""
        member = news.member.id
        self.discard(member)
        self._sends[member] = 0
        self._buckets[0][member] = (news, news_bytes(news))

    def discard(self, member: str) -> None:
        """Say nothing more about `member`."""
        sends = self._sends.pop(member, None)
        if sends is not None:
            del self._buckets[sends][member]

    def take(self, bytes_max: int, limit: int, without: Iterable[str] = ()) -> list[News]:
        """Return what fits into `bytes_max`, counting it as sent once more.

        Args:
            bytes_max: room in the packet.
            limit: sends after which news is dropped, >= 1.
            without: members whose news the packet already carries.
        """
        taken, skipped, misses = [], set(without), 0
        for member, news, size in self._in_order():
            if misses == _MISSES_MAX:
                break
            if member in skipped or size > bytes_max:
                misses += 1
                continue
            bytes_max -= size
            taken.append(news)
        for news in taken:
            self._count_send(news.member.id, limit)
        return taken

    def _in_order(self) -> Iterable[tuple[str, News, int]]:
        for bucket in self._buckets:
            for member in reversed(bucket):
                yield member, *bucket[member]

    def _count_send(self, member: str, limit: int) -> None:
        sends = self._sends[member]
        item = self._buckets[sends].pop(member)
        if sends + 1 >= limit:
            del self._sends[member]
            return
        if sends + 1 == len(self._buckets):
            self._buckets.append({})
        self._sends[member] = sends + 1
        self._buckets[sends + 1][member] = item

    def check(self) -> None:
        """Assert that every rumour stands in exactly the bucket of its count."""
        found = {m: sends for sends, bucket in enumerate(self._buckets) for m in bucket}
        assert found == self._sends
        assert len(found) == sum(len(bucket) for bucket in self._buckets)
