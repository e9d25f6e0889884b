"""A problem names the line where a person will look for it."""

from __future__ import annotations

import pytest

from mesh.settings.report import FOUND_CHARS_MAX, Source, meant, shown

TEXT = """\
name = "n0"
[listen]
http = "x"
"peer" = "y"

[[pipelines.ask.stages]]
name = "a"
[[pipelines.ask.stages]]
name = "b"
take = { text = "query" }
[roles.embed]
batch = { items_max = 3 }
"""
PLACES = [
    ("name", 1),
    ("listen", 2),
    ("listen.http", 3),
    ("listen.peer", 4),
    ("listen.nothing", 2),
    ("pipelines.ask.stages.0.name", 7),
    ("pipelines.ask.stages.1.take.text", 10),
    ("roles.embed.batch.items_max", 12),
]


@pytest.mark.parametrize(("key", "line"), PLACES)
def test_keys_are_found_at_their_line_or_their_parent(key, line):
    assert f"f:{line}" == Source("f", TEXT).place(key)


def test_unknown_keys_and_textless_sources_have_no_line():
    assert Source("f", TEXT).place("nothing.at.all") == "f"
    assert Source("environment X").place("name") == "environment X"


def test_suggestions_are_near_names_only():
    assert meant("htpp", ["http", "peer"]) == 'did you mean "http"?'
    assert meant("colour", ["http", "peer"]) == ""


def test_long_values_are_cut():
    """A message shows enough of a value to recognise it."""
    assert FOUND_CHARS_MAX == len(shown("mesh.name", "x" * 500))
    assert repr("short") == shown("mesh.name", "short")
