"""The turns of one conversation have one key, whatever is said in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.policy.conversation import CHARS, TOKENS, key_of

turns = st.lists(st.text(max_size=20), max_size=5)


def said(role, content):
    return {"role": role, "content": content}


@given(st.text(max_size=60), st.text(max_size=60), turns)
def test_later_turns_keep_the_key_of_the_first(system, first, more):
    """Whatever the assistant and the user add."""
    begun = [said("system", system), said("user", first)]
    grown = begun + [said(("assistant", "user")[at % 2], text) for at, text in enumerate(more)]
    assert key_of({"messages": begun}) == key_of({"messages": grown})
    assert key_of({"messages": begun}) != key_of({"messages": [said("user", first + "x")]})


@given(st.text(min_size=CHARS, max_size=CHARS + 9), st.text())
def test_a_prompt_that_grows_keeps_its_key(prompt, more):
    """As soon as it is long enough for its beginning to be worth something."""
    assert key_of({"prompt": prompt}) == key_of({"prompt": prompt + more})
    assert key_of({"text": prompt}) == key_of({"text": prompt + more})


def test_a_prompt_of_tokens_keeps_its_key():
    ids = list(range(TOKENS + 5))
    assert key_of({"prompt": ids}) == key_of({"prompt": [*ids, 7]})
    assert key_of({"prompt": ids}) != key_of({"prompt": [1, *ids]})


@pytest.mark.parametrize(
    "fields",
    [{}, {"prompt": "short"}, {"prompt": [1, 2]}, {"query": "q" * 999}, {"messages": []}],
)
def test_what_has_no_long_beginning_has_no_key(fields):
    assert key_of(fields) is None


@pytest.mark.parametrize(
    "messages", [["text"], [None], [{"role": 3}], [{"content": "\ud800"}], [{}, 7], [[]]]
)
def test_nonsense_is_left_for_the_role_to_refuse(messages):
    assert isinstance(key_of({"messages": messages}), bytes)
