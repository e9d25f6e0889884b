"""A table of every error: what is tried again, and when not."""

from __future__ import annotations

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
from mesh.policy.attempts import may_have_begun, may_retry

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
