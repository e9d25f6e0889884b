"""The figures of the ring's page are what the code gives, and its theory is computed right."""

import pytest

from bench import ring


def test_a_full_group_of_servers_turns_away_what_erlang_says():
    """His table: one server at one erlang, ten at five, none at all."""
    assert pytest.approx(0.5) == ring.erlang_b(1, 1.0)
    assert 0.0184 == round(ring.erlang_b(10, 5.0), 4)
    assert 1.0 == ring.erlang_b(0, 3.0)


@pytest.mark.slow
def test_the_page_says_what_the_code_gives():
    """A few rows of each table; `python -m bench.ring --write` makes them all anew."""
    shown = ring.PAGE.read_text()
    rows = [ring.even_row(3), ring.moved_row(3), ring.bound_row(1.5, 8, is_hot=True)]
    for row in rows:
        assert "| " + " | ".join(row) + " |" in shown
