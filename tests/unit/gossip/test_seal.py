"""Sealed packets open once, for those who know the secret, of the mesh and sender named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import RemoteProtocolError
from mesh.gossip import seal as sealing
from mesh.gossip.seal import WINDOW, Seal


def seal(node: str = "a", secret: str = "s", label: str = "m", boot: int = 7) -> Seal:
    return Seal(secret, label, node, boot, b"salt")


def refused(receiver: Seal, data: bytes) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        receiver.open(data)
    return caught.value.message


def test_opens_once_and_names_the_sender():
    a, b = seal("a"), seal("b")
    data = a.seal(b"hello")
    assert len(b"hello") + a.overhead_bytes == len(data)
    assert (("a", 7), b"hello") == b.open(data)
    assert "replayed" == refused(b, data)


def test_equal_packets_differ_when_sealed():
    a = seal()
    assert a.seal(b"x") != a.seal(b"x")


@pytest.mark.parametrize("other", [seal(secret="t"), seal(label="n")], ids=["secret", "label"])
def test_another_secret_or_label_opens_nothing(other):
    assert "wrong_seal" == refused(seal("b"), other.seal(b"x"))


@pytest.mark.parametrize("place", range(0, 60, 3))
def test_a_changed_byte_opens_nothing(place):
    data = bytearray(seal().seal(b"x" * 40))
    data[place] ^= 1
    assert refused(seal("b"), bytes(data)) in ("wrong_seal", "not_sealed")


@given(st.binary(max_size=80))
def test_garbage_is_refused_by_name(data):
    """Whatever arrives, only the protocol error comes out."""
    for garbage in (data, b"S" + data, b"S\x01\xff" + data):
        assert refused(seal("b"), garbage) in ("wrong_seal", "not_sealed")


def test_packets_may_overtake_each_other_within_the_window():
    a, b = seal("a"), seal("b")
    sent = [a.seal(b"") for _ in range(WINDOW + 2)]
    b.open(sent[-1])
    assert "replayed" == refused(b, sent[0])
    assert "replayed" == refused(b, sent[1])
    for data in reversed(sent[2:-1]):
        b.open(data)
    for data in sent:
        assert "replayed" == refused(b, data)


def test_a_new_boot_has_a_window_of_its_own():
    b = seal("b")
    b.open(seal("a", boot=1).seal(b""))
    b.open(seal("a", boot=2).seal(b""))


def test_keys_and_windows_are_bounded(monkeypatch):
    monkeypatch.setattr(sealing, "SENDERS_MAX", 2)
    b = seal("b")
    for name in "cdefc":
        b.open(seal(name).seal(b""))
    assert (2, 2) == (len(b._keys), len(b._windows))
