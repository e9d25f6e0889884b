"""The number of steps under way, and the share of threads, follow what gave more tokens."""

from __future__ import annotations

import pytest

from mesh.llm.lanes import PAUSE_MAX, Lanes, Mode


def play(lanes, speakers, rate_of, seconds):
    """Let steps come back for so long, each of its mode's rate; return the modes seen."""
    now_s, seen = 0.0, []
    while now_s < seconds:
        mode = lanes.mode(speakers)
        seen.append(mode)
        tokens = max(1, speakers // mode.lanes)
        now_s += tokens / rate_of(mode)
        lanes.note(speakers, tokens, now_s, is_calm=True)
    return seen


@pytest.mark.parametrize("best", [1, 2, 3])
@pytest.mark.parametrize("sharing", [1, 3])
def test_the_best_mode_is_found_from_any_beginning(best, sharing):
    lanes = Lanes(3, sharing, 2)

    def rate_of(mode):
        return 500.0 if mode.lanes == best else 300.0

    play(lanes, 8, rate_of, 30.0)
    assert lanes.usual()[8]["lanes"] == best


def test_few_threads_are_tried_where_cores_are_shared():
    """A machine that others want too: one thread waits for nobody."""
    lanes = Lanes(3, 3, 3)
    play(lanes, 1, lambda mode: 100.0 if mode.share == 3 else 20.0, 30.0)
    assert lanes.usual()[1] == {"lanes": 1, "share": 3, "abreast": 1}


def test_a_single_row_alone_is_never_tried_otherwise():
    lanes = Lanes(3)
    assert {Mode(1)} == set(play(lanes, 1, lambda mode: 100.0, 20.0))


def test_equal_modes_change_nothing_and_are_tried_ever_less():
    """The wait doubles once all were tried, up to its limit."""
    lanes = Lanes(3)
    seen = play(lanes, 8, lambda mode: 400.0, 300.0)
    assert lanes.usual()[8] == {"lanes": 2, "share": 1, "abreast": 1}
    tried = sum(mode != Mode(2) for mode in seen)
    assert 0 < tried < 0.05 * len(seen)
    assert lanes._crowd(8).pause <= PAUSE_MAX


def test_what_is_read_meanwhile_is_no_measure():
    """While prompts are read no window is judged."""
    lanes = Lanes(3)
    for at in range(1000):
        lanes.note(8, 4, at * 0.01, is_calm=False)
    assert lanes.mode(8) == Mode(2)


def test_lanes_are_never_more_than_nodes_or_speakers():
    lanes = Lanes(2, 2, 2)
    for speakers in (1, 2, 5, 16, 64):
        seen = play(lanes, speakers, lambda mode: 100.0 * mode.lanes, 20.0)
        assert max(mode.lanes for mode in seen) <= min(2, speakers)


def test_what_is_much_slower_is_left_early_and_put_off_where_answers_are_short():
    """Answers of a second: trials cost next to nothing, and the guess stays."""
    lanes, now_s, tried = Lanes(3, 3), 0.0, 0
    for _ in range(60):
        for _ in range(250):
            mode = lanes.mode(8)
            now_s += 0.004 if mode.lanes == 2 else 0.006
            tried += mode.lanes != 2
            lanes.note(8, 4, now_s, is_calm=True)
        lanes.note(8, 4, now_s, is_calm=False)
    assert 0 < tried < 0.05 * 60 * 250
    assert lanes.usual()[8]["lanes"] == 2


def test_nodes_of_one_machine_compute_abreast_what_meets_there():
    """A step has a core wherever it is; machines of their own try both."""
    assert {Mode(1), Mode(2, 1, 2), Mode(3, 1, 3)} == set(play(Lanes(3, 3), 8, dull, 60.0))
    alone = set(play(Lanes(2, 1, 4), 8, dull, 60.0))
    assert {Mode(1), Mode(2), Mode(2, 2, 2)} == alone


def dull(mode):
    return 400.0
