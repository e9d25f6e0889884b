"""Cutting loses no word and keeps every passage short."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.index.passages import cut, embedded_text, plain_words

TEXT = st.text(alphabet="ab. \n!", max_size=400)


@given(TEXT, st.integers(5, 60))
def test_passages_are_short_and_whole(text, chars_max):
    """Put together, the passages are the text but for white space; none exceeds the limit."""
    passages = cut(text, chars_max, sys.maxsize)
    assert "".join("".join(passages).split()) == "".join(text.split())
    assert all(0 < len(passage) <= chars_max for passage in passages)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("short", ["short"]),
        ("one one\n\ntwo two", ["one one", "two two"]),
        ("First one. Second.", ["First one.", "Second."]),
        ("abcdefghijklmnop", ["abcdefghijkl", "mnop"]),
    ],
)
def test_cuts_fall_where_a_reader_would_pause(text, expected):
    assert cut(text, 12) == expected


def test_what_exceeds_the_number_of_passages_is_left_out():
    assert cut("a. " * 100, 4, passages_max=3) == ["a.", "a.", "a."]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("csv.DictReader", "csv Dict Reader"),
        ("http.client.HTTPConnection", "http client HTTP Connection"),
        ("os.path.getsize", "os path getsize"),
        ("b64_encode", "b64 encode"),
    ],
)
def test_names_become_words(name, expected):
    assert plain_words(name) == expected


def test_the_encoder_reads_words_rather_than_the_title():
    assert embedded_text("a.b", "a b", "text") == "a b: text"
    assert embedded_text("notes.md", "", "text") == "notes.md: text"
