"""Numbers of streams and their credit, by the table."""

from __future__ import annotations

import pytest

from mesh.errors import LocalProtocolError, RemoteProtocolError
from mesh.wire.streams import PIECE_COST_MIN, STREAM_MAX, Streams

WINDOW = 8 * PIECE_COST_MIN


def streams(is_client: bool = True) -> Streams:
    return Streams(is_client, WINDOW, WINDOW)


@pytest.mark.parametrize(("is_client", "expected"), [(True, [1, 3, 5]), (False, [2, 4, 6])])
def test_each_side_has_its_own_numbers(is_client: bool, expected: list[int]) -> None:
    side, found = streams(is_client), []
    for _ in range(3):
        found.append(side.number())
        side.open_mine(found[-1], wants_pieces=False)
    assert expected == found


@pytest.mark.parametrize("stream", [0, 1, 3, 4])
def test_the_peer_opens_only_its_own_and_each_once(stream: int) -> None:
    side = streams()
    side.open_theirs(4, wants_pieces=False)
    side.check_theirs(2)
    with pytest.raises(RemoteProtocolError):
        side.check_theirs(stream)


def test_what_is_over_differs_from_what_never_was() -> None:
    side = streams()
    side.open_mine(1, wants_pieces=True)
    assert side.close_mine(1)
    assert not side.close_mine(1)
    assert side.spend(1, 10) is None
    assert not side.grant(1, 1)
    with pytest.raises(RemoteProtocolError, match="never"):
        side.close_mine(3)


def test_after_the_numbers_begin_again_nothing_is_known_of_old_ones() -> None:
    side = streams()
    side.open_mine(1, wants_pieces=False)
    side.open_mine(STREAM_MAX - 1, wants_pieces=False)
    assert 3 == side.number()
    assert not side.close_mine(99)


@pytest.mark.parametrize(
    ("length", "cost"), [(0, PIECE_COST_MIN), (PIECE_COST_MIN, PIECE_COST_MIN), (5000, 5000)]
)
def test_a_piece_costs_its_bytes_but_never_nothing(length: int, cost: int) -> None:
    side = streams()
    side.open_theirs(2, wants_pieces=True)
    assert cost == side.spend(2, length)


def test_credit_goes_back_half_a_window_at_a_time() -> None:
    side = streams()
    side.open_theirs(2, wants_pieces=True)
    costs = [side.spend(2, 0) for _ in range(8)]
    assert [0, 0, 0, WINDOW // 2, 0, 0, 0, WINDOW // 2] == [side.give_back(2, c) for c in costs]
    side.check()
    assert 0 == side.give_back(99, 1000)


def test_a_window_may_be_overrun_by_one_piece_only() -> None:
    side = streams()
    side.open_theirs(2, wants_pieces=True)
    side.spend(2, WINDOW - 1)
    side.spend(2, 100 * WINDOW)
    with pytest.raises(RemoteProtocolError, match="credit"):
        side.spend(2, 0)


@pytest.mark.parametrize("amount", [0, -1, WINDOW, 1 << 70])
def test_credit_that_was_not_used_is_refused(amount: int) -> None:
    side = streams()
    side.open_mine(1, wants_pieces=True)
    flow = side.to_send(1)
    assert flow is not None
    flow.sendable -= 100
    with pytest.raises(RemoteProtocolError, match="never used"):
        side.grant(1, amount)
    assert side.grant(1, 100)


def test_pieces_need_a_call_that_wants_them_and_credit() -> None:
    side = streams()
    side.open_mine(1, wants_pieces=False)
    side.open_mine(3, wants_pieces=True)
    with pytest.raises(LocalProtocolError):
        side.to_send(1)
    with pytest.raises(RemoteProtocolError, match="no pieces"):
        side.spend(1, 1)
    side.mine[3].sendable = 0
    with pytest.raises(LocalProtocolError):
        side.to_send(3)
    assert side.to_send(5) is None
