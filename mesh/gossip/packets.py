"""What nodes say to each other about who is alive, and its bytes.

Pure. A packet is one datagram. Its head says who speaks, in which version, and
which version of the receiver the speaker knows, so that any packet shows both
sides who of them is behind. Reading garbage raises `RemoteProtocolError` only.

    plain:   "M" | MessagePack of Packet or Sync
    sealed:  "S" | see `mesh.gossip.seal`
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from mesh.errors import RemoteProtocolError
from mesh.gossip.member import FACTS_BYTES_MAX, Address, Count, Id, News, facts_bytes
from mesh.gossip.seal import Seal

DATAGRAM_BYTES_MAX = 1200  # fits the 1280 of WireGuard and IPv6's minimum, with headers
SYNC_BYTES_MAX = 8 << 20  # 20,000 members at 400 bytes
LABEL_BYTES_MAX = 64

FOREIGN, UNREADABLE, NOT_SEALED = "foreign_mesh", "unreadable", "not_sealed"


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """Are you there? An empty `target` asks whoever listens there, as for a seed."""

    seq: Count
    target: Annotated[str, Meta(max_length=32)]


class Ack(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """`target` answered the ping `seq`; helpers pass it on."""

    seq: Count
    target: Id


class Nack(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """I asked for you and heard nothing: my own way to you works at least."""

    seq: Count
    target: Id


class PingRequest(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Please ping `target` for me."""

    seq: Count
    target: Id
    address: Address


Said = TypeVar("Said", "Packet", "Sync")
Message = Ping | Ack | Nack | PingRequest


class Packet(msgspec.Struct, frozen=True, array_like=True):
    """One datagram."""

    label: Annotated[str, Meta(max_length=LABEL_BYTES_MAX)]
    sender: Id
    boot: Count
    incarnation: Count
    seen_boot: Count = 0  # which version of the receiver the sender knows; 0: none
    seen_incarnation: Count = 0
    messages: Annotated[tuple[Message, ...], Meta(max_length=8)] = ()
    rumours: Annotated[tuple[News, ...], Meta(max_length=128)] = ()


class Sync(msgspec.Struct, frozen=True, array_like=True):
    """Everything that a node knows, for push and pull."""

    label: Annotated[str, Meta(max_length=LABEL_BYTES_MAX)]
    sender: Id
    boot: Count
    news: tuple[News, ...] = ()


_packets = msgspec.msgpack.Decoder(Packet)
_syncs = msgspec.msgpack.Decoder(Sync)


def packet_bytes(packet: Packet) -> int:
    """Return the size of `packet` before sealing, the first byte included."""
    return 1 + len(msgspec.msgpack.encode(packet))


class Codec:
    """Packets to bytes and back, for one mesh, sealed if the mesh has a secret."""

    def __init__(self, label: str, seal: Seal | None = None) -> None:
        self._label = label
        self._seal = seal

    @property
    def overhead_bytes(self) -> int:
        """How many bytes sealing adds to a packet."""
        return self._seal.overhead_bytes if self._seal else 0

    def encode(self, message: Packet | Sync) -> bytes:
        """Return the bytes to send."""
        body = b"M" + msgspec.msgpack.encode(message)
        return self._seal.seal(body) if self._seal else body

    def decode_packet(self, data: bytes) -> Packet:
        """Return the packet in `data`.

        Raises:
            RemoteProtocolError: its message is one of a few fixed words, to be counted by.
        """
        packet = self._decode(data, _packets)
        _check_news(packet.rumours)
        return packet

    def decode_sync(self, data: bytes) -> Sync:
        """Return the sync in `data`; raises as `decode_packet` does."""
        if len(data) > SYNC_BYTES_MAX:
            raise RemoteProtocolError(UNREADABLE)
        sync = self._decode(data, _syncs)
        _check_news(sync.news)
        return sync

    def _decode(self, data: bytes, decoder: msgspec.msgpack.Decoder[Said]) -> Said:
        sender = None
        if self._seal:
            sender, data = self._seal.open(data)
        if data[:1] != b"M":
            raise RemoteProtocolError(NOT_SEALED if data[:1] == b"S" else UNREADABLE)
        try:
            message = decoder.decode(memoryview(data)[1:])
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise RemoteProtocolError(UNREADABLE) from error
        if message.label != self._label:
            raise RemoteProtocolError(FOREIGN)
        if sender is not None and sender != (message.sender, message.boot):
            raise RemoteProtocolError(UNREADABLE)
        return message


def _check_news(news: tuple[News, ...]) -> None:
    for each in news:
        facts = each.member.facts
        if facts_bytes(facts) > FACTS_BYTES_MAX or not 0.0 <= facts.load < float("inf"):
            raise RemoteProtocolError(UNREADABLE)
