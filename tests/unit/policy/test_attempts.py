"""A table of every error: what is tried again, and when not."""

from __future__ import annotations

from random import Random

import pytest

from mesh.errors import (
    BadRequest,
    ConnectionLost,
    DeadlineExceeded,
    Draining,
    LocalProtocolError,
    NoOwner,
    Overloaded,
    PeerTimeout,
    RemoteProtocolError,
    RoleError,
    Unreachable,
)
from mesh.policy.attempts import (
    BACKOFF_S,
    BACKOFF_S_MAX,
    Tried,
    backoff_s,
    may_have_begun,
    may_retry,
    may_return,
)

FINE = {"attempts": 1, "is_idempotent": True, "has_streamed": False, "others": 1, "left_s": 9.0}


@pytest.mark.parametrize(
    ("error", "idempotent", "once"),
    [
        (Unreachable, True, True),
        (ConnectionLost, True, False),
        (PeerTimeout, True, False),
        (RemoteProtocolError, True, False),
        (LocalProtocolError, False, False),
        (Overloaded, True, True),
        (NoOwner, True, True),
        (Draining, True, True),
        (BadRequest, False, False),
        (DeadlineExceeded, False, False),
        (RoleError, False, False),
    ],
)
def test_what_is_tried_again(error, idempotent, once):
    assert may_retry(error(), **FINE) is idempotent
    assert may_retry(error(), **FINE | {"is_idempotent": False}) is once


@pytest.mark.parametrize(
    "but", [{"has_streamed": True}, {"others": 0}, {"left_s": 0.0}, {"attempts": 3}]
)
def test_what_forbids_another_attempt(but):
    assert may_retry(Unreachable(), **FINE)
    assert not may_retry(Unreachable(), **FINE | but)


@pytest.mark.parametrize(
    ("error", "names", "is_idempotent", "expected"),
    [
        (ConnectionLost(), ("a", "b"), True, True),
        (PeerTimeout(), ("a", "b"), True, True),
        (Unreachable(), ("a", "b", "c"), True, True),
        (ConnectionLost(), ("a",), True, False),  # nobody but the one that failed
        (ConnectionLost(), ("a", "b"), False, False),
        (Overloaded(), ("a", "b"), True, False),  # it has said so: it would again
        (RoleError(), ("a", "b"), True, False),
    ],
)
def test_who_may_be_asked_again_when_nobody_is_left(error, names, is_idempotent, expected):
    assert may_return(error, Tried(*names), is_idempotent=is_idempotent) is expected


def test_what_is_forgiven_still_counts():
    """Else an item that ends every process which runs it would go round."""
    tried = Tried("a")
    tried.add("b")
    tried.forgive_but("b")
    assert (tried.names, tried.count) == (["b"], 2)
    tried.add("a")
    assert (tried.names, tried.count) == (["b", "a"], 3)


def test_only_a_lost_peer_may_have_begun():
    assert may_have_begun(ConnectionLost())
    assert not may_have_begun(Unreachable())
    assert not may_have_begun(Overloaded())


def test_the_wait_grows_to_its_limit_and_is_drawn_by_lot():
    """Anywhere between none and the whole; the whole doubles with each attempt."""
    for attempts, whole_s in ((1, BACKOFF_S), (2, 2 * BACKOFF_S), (30, BACKOFF_S_MAX)):
        waits = [backoff_s(attempts, Random(seed)) for seed in range(200)]
        assert 0.0 <= min(waits) < 0.1 * whole_s
        assert 0.9 * whole_s < max(waits) <= whole_s
