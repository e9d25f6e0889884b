"""Bytes of packets: what is written is read, and garbage is only ever refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import RemoteProtocolError
from mesh.gossip import packets
from mesh.gossip.member import ACCUSERS_MAX, Facts, Member, News, Status
from mesh.gossip.packets import Ack, Codec, Nack, Packet, Ping, PingRequest, Sync, packet_bytes
from mesh.gossip.seal import Seal

text = st.text(max_size=12)
ids = st.text("0123456789abcdef", min_size=1, max_size=16)
counts = st.integers(0, (1 << 53) - 1)
facts = st.builds(Facts, text, text, st.lists(text, max_size=3).map(tuple), st.integers(0, 99))
members = st.builds(Member, ids, counts, counts, st.sampled_from(Status), text, facts)
accusers = st.lists(ids, max_size=ACCUSERS_MAX).map(tuple)
news = st.builds(News, members, accusers, counts)
messages = st.one_of(
    st.builds(Ping, counts, ids | st.just("")),
    st.builds(Ack, counts, ids),
    st.builds(Nack, counts, ids),
    st.builds(PingRequest, counts, ids, text),
)
all_packets = st.builds(
    Packet,
    st.just("m"),
    ids,
    counts,
    counts,
    counts,
    counts,
    st.lists(messages, max_size=3).map(tuple),
    st.lists(news, max_size=3).map(tuple),
)
syncs = st.builds(Sync, st.just("m"), ids, counts, st.lists(news, max_size=3).map(tuple))

PLAIN = Codec("m")
GOLDEN = Packet(
    "m",
    "a",
    2,
    3,
    4,
    5,
    (Ping(6, "b"),),
    (News(Member("c", 1, 1, Status.DEAD, "c:1", Facts("c"))),),
)
GOLDEN_HEX = (
    "4d98a16da16102030405919300 06a162 91 93 96a1630101 02 a3633a31"
    "9da163a090 00cb0000000000000000cb3ff0000000000000c2a00090 009090 90 00"
).replace(" ", "")


def refused(codec: Codec, data: bytes) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        codec.decode_packet(data)
    return caught.value.message


def outcome(data: bytes) -> str:
    try:
        PLAIN.decode_packet(data)
        PLAIN.decode_sync(data)
    except RemoteProtocolError as error:
        return error.message
    return "read"


@given(all_packets)
def test_packets_survive_the_wire(packet):
    """decode(encode(p)) == p, and its size is known beforehand."""
    data = PLAIN.encode(packet)
    assert packet == PLAIN.decode_packet(data)
    assert packet_bytes(packet) == len(data)


@given(syncs)
def test_syncs_survive_the_wire(sync):
    """decode(encode(s)) == s."""
    assert sync == PLAIN.decode_sync(PLAIN.encode(sync))


@given(st.binary(max_size=200))
def test_garbage_is_refused_by_name(data):
    """Whatever arrives, only the protocol error comes out."""
    for garbage in (data, b"M" + data):
        assert outcome(garbage) in ("read", "unreadable", "not_sealed", "foreign_mesh")


@given(all_packets, st.integers(0, 10_000), st.integers(1, 255))
def test_a_torn_packet_is_read_or_refused(packet, place, bits):
    """One byte changed or an end cut off never does worse."""
    data = bytearray(PLAIN.encode(packet))
    data[place % len(data)] ^= bits
    for torn in (bytes(data), bytes(data[: place % len(data)])):
        assert outcome(torn) in ("read", "unreadable", "not_sealed", "foreign_mesh")


def test_the_bytes_of_version_one():
    """They must not change: nodes of two versions share a mesh."""
    assert GOLDEN_HEX == PLAIN.encode(GOLDEN).hex()


def test_a_newer_peer_may_say_more():
    longer = msgspec.msgpack.decode(PLAIN.encode(GOLDEN)[1:])
    longer.append("something of version two")
    longer[7][0][0].append("a new field of a member")
    assert GOLDEN == PLAIN.decode_packet(b"M" + msgspec.msgpack.encode(longer))


@pytest.mark.parametrize(
    "facts",
    [
        Facts("x" * 600),
        Facts("x", load=float("nan")),
        Facts("x", load=float("inf")),
        Facts("x", load=-1.0),
    ],
    ids=["large", "nan", "infinite", "negative"],
)
def test_facts_that_nobody_may_say_are_refused(facts):
    said = News(Member("c", 1, 1, Status.ALIVE, "c:1", facts))
    assert "unreadable" == refused(PLAIN, PLAIN.encode(Packet("m", "a", 1, 1, rumours=(said,))))


def test_another_mesh_is_refused():
    assert "foreign_mesh" == refused(PLAIN, Codec("other").encode(Packet("other", "a", 1, 1)))


def test_plain_and_sealed_do_not_mix():
    sealed = Codec("m", Seal("s", "m", "a", 1, b"salt"))
    packet = Packet("m", "a", 1, 1)
    assert "not_sealed" == refused(sealed, PLAIN.encode(packet))
    assert "not_sealed" == refused(PLAIN, sealed.encode(packet))
    reader = Codec("m", Seal("s", "m", "b", 1, b"salt"))
    data = sealed.encode(packet)
    assert sealed.overhead_bytes == len(data) - packet_bytes(packet)
    assert 0 == PLAIN.overhead_bytes
    assert packet == reader.decode_packet(data)


def test_nobody_speaks_for_another():
    """Who holds the secret can seal, but only in its own name."""
    liar = Codec("m", Seal("s", "m", "a", 1, b"salt"))
    reader = Codec("m", Seal("s", "m", "b", 1, b"salt"))
    assert "unreadable" == refused(reader, liar.encode(Packet("m", "c", 1, 1)))


def test_a_sync_beyond_its_limit_is_not_read(monkeypatch):
    monkeypatch.setattr(packets, "SYNC_BYTES_MAX", 4)
    with pytest.raises(RemoteProtocolError, match="unreadable"):
        PLAIN.decode_sync(PLAIN.encode(Sync("m", "a", 1)))
