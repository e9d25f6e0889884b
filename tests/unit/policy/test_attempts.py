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
    backoff_s,
    may_have_begun,
    may_retry,
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
