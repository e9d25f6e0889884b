"""Pieces of text join to the whole: no broken characters, nothing past a stop string."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.llm.text import BROKEN, Detokenizer, StopFinder


def decode(tokens):
    """Take each token as one byte, the hardest case."""
    return bytes(tokens).decode("utf-8", errors="replace")


def pieces(tokens):
    text = Detokenizer(decode)
    return [text.push(token) for token in tokens], text.flush()


def test_a_character_of_four_tokens_comes_whole():
    shown, rest = pieces("a🤖b".encode())
    assert shown == ["a", "", "", "", "🤖", "b"]
    assert rest == ""


def test_bytes_that_never_become_a_character_come_at_the_end():
    shown, rest = pieces(b"a\xf0\x9f")
    assert "".join(shown) == "a"
    assert rest == BROKEN


@given(st.text(max_size=40))
def test_pieces_join_to_the_text(text):
    """Every text, byte by byte; none of the pieces shows half a character."""
    shown, rest = pieces(text.encode())
    assert "".join(shown) + rest == text
    assert BROKEN in text or not any(BROKEN in piece for piece in shown)


@given(st.lists(st.integers(0, 255), max_size=40))
def test_garbage_is_shown_as_it_decodes(tokens):
    """Bytes that are no text at all lose nothing that the decoder shows."""
    shown, rest = pieces(tokens)
    assert len("".join(shown) + rest) >= len(decode(tokens).replace(BROKEN, ""))


def cut(parts, stops):
    finder = StopFinder(stops)
    shown = "".join(finder.push(part) for part in parts)
    return shown if finder.is_found else shown + finder.flush(), finder.is_found


def test_a_stop_string_may_come_in_pieces():
    assert cut(["Hello wo", "rl", "d again"], ["world"]) == ("Hello ", True)
    assert cut(["Hello wo", "rl", "m"], ["world"]) == ("Hello worlm", False)


def test_what_could_begin_a_stop_string_is_held_back():
    finder = StopFinder(["\n\nQ:"])
    assert finder.push("yes\n") == "yes"
    assert finder.push("no") == "\nno"


def test_the_first_of_several_stops_cuts():
    assert cut(["abcdef"], ["ef", "cd"]) == ("ab", True)


@given(
    st.text(alphabet="ab", max_size=20),
    st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 4), min_size=1, max_size=20),
)
def test_pieces_do_not_matter(text, stops, sizes):
    """However the text is cut, what is shown is what stands before the first stop string."""
    parts, at = [], 0
    for size in sizes * 20:
        parts.append(text[at : at + size])
        at += size
    found = [text.find(stop) for stop in stops if stop in text]
    shown, is_found = cut(parts, stops)
    assert is_found == bool(found)
    if not found:
        assert shown == text
    elif len(stops) == 1:
        assert shown == text[: found[0]]
