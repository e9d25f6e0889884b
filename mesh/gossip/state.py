"""What the parts of the membership machine share: this node, its table, its outgoing mail.

Pure. It changes this node's own entry, queues news and fills packets; it decides
nothing about others.
"""

from __future__ import annotations

from collections import Counter, deque
from random import Random
from typing import Any

import msgspec

from mesh.gossip.alarms import Alarms
from mesh.gossip.events import Action, Kind, Notice, SendPacket
from mesh.gossip.lifeguard import Awareness, Patience, patience, retransmit_limit
from mesh.gossip.member import Member, News, Status
from mesh.gossip.packets import Message, Packet, packet_bytes
from mesh.gossip.roster import Roster
from mesh.gossip.rules import Rules
from mesh.gossip.rumours import Rumours, news_bytes

_LIST_HEAD_BYTES = 2  # MessagePack's head of a list with 16 entries or more is longer by so much
_ACCUSATIONS_MAX = 32  # kept for people


class State:
    """One node's share of the mesh's knowledge."""

    def __init__(self, label: str, me: Member, rng: Random, rules: Rules) -> None:
        self.label, self.me, self.rng, self.rules = label, me, rng, rules
        self.version = 1  # of what `members` shows
        self.roster, self.rumours, self.alarms = Roster(rng), Rumours(), Alarms()
        self.awareness = Awareness()
        self.out: list[Action] = []
        self.counters: Counter[str] = Counter()
        self.accusations: deque[tuple[str, tuple[str, ...]]] = deque(maxlen=_ACCUSATIONS_MAX)
        self._seq = rng.randrange(1 << 20)
        self._last_gossip_s = float("-inf")

    @property
    def is_leaving(self) -> bool:
        """Whether this node has said that it goes."""
        return self.me.status is Status.LEFT

    @property
    def is_alone(self) -> bool:
        """Whether nobody else is known to be present."""
        return not self.roster.present

    def size(self, now_s: float) -> int:
        """How many members count in the formulas: all but those who are long gone."""
        gone = self.roster.gone_since(now_s - self.rules.to_dead_s)
        return 1 + len(self.roster.present) + len(gone)

    def patience(self, now_s: float) -> Patience:
        """Return how long a suspect is waited for in a mesh of this size."""
        rules = self.rules
        return patience(self.size(now_s), rules.suspicion_mult, rules.probe_interval_s)

    def next_seq(self) -> int:
        """Return a number for a ping."""
        self._seq += 1
        return self._seq

    def notice(
        self, kind: Kind, member: Member, by: tuple[str, ...] = (), seconds: float = 0.0
    ) -> None:
        """Tell the shell what is worth a line in its log."""
        self.out.append(Notice(kind, member, by, seconds))

    def become(self, now_s: float, **changes: Any) -> None:
        """Say something new about this node."""
        self.me = msgspec.structs.replace(self.me, **changes)
        self.version += 1
        self.spread(News(self.me), now_s)

    def spread(self, news: News, now_s: float) -> None:
        """Pass `news` on, with the packets to come."""
        self.rumours.put(news)
        if self.alarms.at_s(("gossip",)) is None:
            due_s = self._last_gossip_s + self.rules.gossip_interval_s
            self.alarms.set(("gossip",), max(due_s, now_s + self.rules.first_gossip_s))

    def gossip(self, now_s: float) -> None:
        """Send rumours to a few members, and come back while there are any."""
        self._last_gossip_s = now_s
        targets = self._gossip_targets(now_s)
        for member in targets:
            if self.rumours:
                self.send(member.address, member.id, (), now_s)
        if not targets:
            self.rumours = Rumours()  # nobody to tell: who joins later learns it by sync
        if self.rumours:
            self.alarms.set(("gossip",), now_s + self.rules.gossip_interval_s)

    def _gossip_targets(self, now_s: float) -> list[Member]:
        """Choose whom to tell; the recently dead too, so that they can refute."""
        fanout = self.rules.gossip_fanout
        dead = [
            entry.member
            for entry in self.roster.gone_since(now_s - self.rules.to_dead_s)
            if entry.member.status is Status.DEAD
        ]
        present = self.roster.sample(fanout, lambda _: True)
        pool = present + self.rng.sample(dead, min(len(dead), fanout))
        return self.rng.sample(pool, min(fanout, len(pool)))

    def send(
        self,
        address: str,
        to: str,
        messages: tuple[Message, ...],
        now_s: float,
        owed: tuple[News, ...] = (),
    ) -> None:
        """Send `messages`, what is owed to the receiver, and as many rumours as fit.

        Args:
            address: where to.
            to: id of the receiver, or "" where it is not known.
            messages: few and small.
            now_s: the time.
            owed: news that this very receiver must hear, first of all.
        """
        entry = self.roster.get(to)
        seen = entry.member.version if entry else (0, 0)
        packet = Packet(self.label, self.me.id, *self.me.version, *seen, messages)
        if owed or self.rumours:
            packet = msgspec.structs.replace(packet, rumours=self._cargo(packet, owed, now_s))
        self.counters["packets_sent"] += 1
        self.out.append(SendPacket(address, packet))

    def _cargo(self, packet: Packet, owed: tuple[News, ...], now_s: float) -> tuple[News, ...]:
        room = self.rules.packet_bytes_max - packet_bytes(packet) - _LIST_HEAD_BYTES
        cargo = []
        for news in owed:
            size = news_bytes(news)
            if size <= room:
                cargo.append(news)
                room -= size
        if self.rumours:
            limit = retransmit_limit(self.size(now_s), self.rules.retransmit_mult)
            limit = max(limit, self.rules.retransmit_min)
            cargo += self.rumours.take(room, limit, [news.member.id for news in cargo])
        return tuple(cargo)
