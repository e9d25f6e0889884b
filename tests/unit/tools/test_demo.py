"""The demo prints an answer between words, whatever pieces it comes in."""

from __future__ import annotations

import io
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tools.demo import INDENT, Typewriter

WIDTH = 30
WORDS = st.lists(st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=20))


def typed(pieces):
    out = io.StringIO()
    typewriter = Typewriter(out, WIDTH)
    for piece in pieces:
        typewriter.write(piece)
    typewriter.end()
    return out.getvalue()


@given(words=WORDS, cuts=st.lists(st.integers(0, 200)))
def test_pieces_do_not_matter(words, cuts):
    """However a text is cut into pieces, the same lines appear, none too wide, no word lost."""
    text = " ".join(words)
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[left:right] for left, right in pairwise(edges)]
    assert typed([text]) == typed(pieces)
    lines = typed(pieces).splitlines()
    assert all(len(line) <= WIDTH and line == line.rstrip() for line in lines)
    assert words == typed(pieces).split()


def test_code_keeps_its_indents():
    lead = " " * INDENT
    assert f"{lead}if x:\n{lead}    return\n" == typed(["if x:\n  ", "  return"])


def test_lines_of_the_answer_stay_lines():
    lead = " " * INDENT
    assert f"{lead}one two\n{lead}three\n" == typed(["one two\n", "\nthree"])
