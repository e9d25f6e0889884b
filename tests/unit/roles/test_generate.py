"""The role puts a question as told, streams the answer, and names what is wrong with an item."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import pytest
import torch

from mesh.errors import SetupError, TooLarge, Unprocessable
from mesh.policy.request import Request
from mesh.roles.base import Context, Piece, Whole
from mesh.roles.generate import Generate, Prefix, context_lines
from tests.support.decoders import write_talker

DOCUMENTS = [
    {"title": "a.b", "content": "first  line\nsecond line"},
    {"title": "c.d", "content": "x" * 300},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_talker(tmp_path_factory.mktemp("model"))


def make(folder, **options):
    wishes = {"weights": "float32", "context_max": 192, "sequences_max": 4, "tokens_max": 12}
    context = Context(
        "generate", options={**Generate.options, **wishes, **options}, model=f"path:{folder}"
    )
    role = Generate(context)
    role.load()
    return role


@pytest.fixture(scope="module")
def role(folder):
    opened = make(folder)
    yield opened
    opened.close()


def request(left_s=30.0):
    return Request("r", time.monotonic() + left_s)


async def parts(role, item, left_s=30.0):
    async with aclosing(role.stream(item, request(left_s))) as stream:
        return [part async for part in stream]


def answer(role, item):
    return asyncio.run(parts(role, item))[-1].fields


def told(fields):
    """Return an answer without what depends on those before it."""
    return {name: value for name, value in fields.items() if name != "cached_tokens"}


def test_pieces_join_to_the_whole(role):
    *pieces, whole = asyncio.run(parts(role, {"prompt": "hello", "tokens_max": 20}))
    assert isinstance(whole, Whole)
    assert all(isinstance(piece, Piece) for piece in pieces)
    assert "".join(piece.fields["answer"] for piece in pieces).strip() == whole.fields["answer"]
    assert whole.fields["prompt_tokens"] == 5
    assert whole.fields["answer_tokens"] == 20
    assert whole.fields["finish"] == "length"


@pytest.mark.parametrize("begun", [0, 1, 5, 19])
@pytest.mark.parametrize("item", [{"prompt": "hello"}, {"query": "why?", "temperature": 0.9}])
def test_another_node_goes_on_where_an_answer_broke(role, item, begun):
    """What it gives, after what was given, is the undisturbed answer."""
    wish = {**item, "tokens_max": 20}
    *pieces, whole = asyncio.run(parts(role, wish))
    given = [piece.fields for piece in pieces[:begun]]
    *rest, again = asyncio.run(parts(role, {**wish, "resume": given}))
    texts = [fields["answer"] for fields in (*given, *(piece.fields for piece in rest))]
    assert "".join(piece.fields["answer"] for piece in pieces) == "".join(texts)
    assert told(whole.fields) == told(again.fields)
    new = [*given, *(piece.fields for piece in rest)]
    assert sum(len(fields["tokens"]) for fields in new) <= whole.fields["answer_tokens"]


@pytest.mark.parametrize("given", [[{"answer": "a"}], [{"answer": "a", "tokens": [10**6]}]])
def test_what_cannot_be_resumed_is_refused(role, given):
    with pytest.raises(Unprocessable):
        answer(role, {"prompt": "hello", "resume": given})


def test_sixteen_questions_at_once_are_answered_as_one_after_the_other(role):
    items = [{"query": f"what is {n}?", "documents": DOCUMENTS[:1]} for n in range(16)]
    alone = [told(answer(role, item)) for item in items]

    async def at_once():
        return await asyncio.gather(*(parts(role, item) for item in items))

    together = [each[-1] for each in asyncio.run(at_once())]
    assert alone == [told(whole.fields) for whole in together]
    assert max(whole.batch_size for whole in together) > 1
    assert role.statistics()["engine"]["rows_per_step_max"] > 1


def test_a_seed_repeats_an_answer_and_another_seed_does_not(role):
    wish = {"prompt": "hello", "temperature": 1.0, "tokens_max": 20}
    first = answer(role, {**wish, "seed": 7})
    assert answer(role, {**wish, "seed": 7}) == first
    assert answer(role, {**wish, "seed": 8}) != first


def test_a_stop_string_ends_the_answer(role):
    whole = answer(role, {"prompt": "hello", "tokens_max": 20})["answer"]
    stop = whole[3:5]
    found = answer(role, {"prompt": "hello", "tokens_max": 20, "stop": [stop]})
    assert found["finish"] == "stop"
    assert stop not in found["answer"]


@pytest.mark.parametrize(
    ("item", "error", "words"),
    [
        ({}, Unprocessable, "one of query, prompt, messages"),
        ({"prompt": "x" * 192}, TooLarge, "a prompt of 192 tokens; expected 1 to 191"),
        ({"prompt": ""}, Unprocessable, "prompt: expected at least one token"),
        ({"prompt": "x", "temperature": -1.0}, Unprocessable, "out of range: temperature"),
        ({"prompt": "x", "tokens_max": 0}, Unprocessable, "tokens_max"),
        ({"prompt": "x", "stop": [3]}, Unprocessable, "stop"),
        ({"messages": [{"role": "user"}]}, Unprocessable, "messages: expected objects"),
        ({"messages": []}, Unprocessable, "at least one"),
        ({"query": "x", "documents": ["y"]}, Unprocessable, "documents: expected objects"),
    ],
)
def test_what_is_wrong_with_an_item_is_said(role, item, error, words):
    with pytest.raises(error, match=words):
        answer(role, item)


def test_of_a_far_too_long_prompt_only_the_beginning_is_cut_up(role, monkeypatch):
    """Cutting up megabytes would hold the loop until other nodes take this one for dead."""
    seen, encode = [], type(role.opened.tokenizer).encode

    def watched(self, text, *, is_chat=False):
        seen.append(len(text))
        return encode(self, text, is_chat=is_chat)

    monkeypatch.setattr(type(role.opened.tokenizer), "encode", watched)
    with pytest.raises(TooLarge, match="1000000 characters; expected 1 to 191 tokens"):
        answer(role, {"prompt": "x" * 1_000_000})
    assert seen == [8 * 192]
    with pytest.raises(TooLarge, match="tokens; expected 1 to 191"):
        answer(role, {"prompt": [-1] * 192})  # counted before each is looked at


def test_leaving_the_stream_frees_what_it_held(role):
    async def leave():
        async with aclosing(role.stream({"prompt": "hello", "tokens_max": 150}, request())) as said:
            async for _ in said:
                return

    asyncio.run(leave())
    assert answer(role, {"prompt": "hello", "tokens_max": 1})
    assert role.statistics()["engine"]["kv_blocks_used"] == 0


def test_a_question_is_put_as_the_options_say(folder):
    role = make(
        folder,
        system="S",
        question="<{context}|{query}>",
        examples=[{"context": "c", "query": "q", "answer": "a"}],
        content_chars_max=10,
    )
    try:
        found = role._question("why {context}?", DOCUMENTS)
    finally:
        role.close()
    assert [(each["role"], each["content"]) for each in found] == [
        ("system", "S"),
        ("user", "<c|q>"),
        ("assistant", "a"),
        ("user", f"<- a.b: first line\n- c.d: {'x' * 10}|why {{context}}?>"),
    ]


def test_the_contracts_format_is_the_default():
    assert Generate.options["question"] == "Context:\n{context}\n\nQuestion: {query}\n\nAnswer:"
    assert context_lines(DOCUMENTS, 200) == f"- a.b: first line second line\n- c.d: {'x' * 200}"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"examples": [{"query": "q"}]}, "examples"),
        ({"question": "no field"}, "question: expected a text with"),
        ({"weights": "int3"}, "weights = 'int3'"),
    ],
)
def test_options_that_cannot_be_are_refused_before_serving(folder, options, words):
    with pytest.raises(SetupError, match=words):
        make(folder, **options)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["Ans", "wer: ", "yes", " sir"], "yes sir"),
        (["Answ", "ered"], "Answered"),
        (["  no"], "no"),
        (["Answer:"], ""),
        (["Answ"], "Answ"),
    ],
)
def test_a_prefix_is_taken_off_however_it_comes(parts, expected):
    trim = Prefix("Answer:")
    assert "".join(trim.push(part) for part in parts) + trim.flush() == expected


def test_importing_the_role_loads_no_torch():
    import subprocess
    import sys

    code = "import mesh.roles.generate, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert torch.get_num_threads() >= 1


def test_odds_are_told_of_each_token_of_the_text(role):
    item = {"prompt": "hello", "tokens_max": 6, "logprobs": 2, "ignores_ends": True}
    *pieces, whole = asyncio.run(parts(role, item))
    told = [odds for piece in pieces for odds in piece.fields.get("logprobs", [])]
    assert told == whole.fields["logprobs"]
    assert len(told) == 6
    assert all(odds["logprob"] <= 0 and len(odds["top"]) == 2 for odds in told)
    assert all(odds["top"][0][1] >= odds["logprob"] for odds in told)
    assert "".join(odds["token"] for odds in told) == whole.fields["answer"]
    assert "logprobs" not in answer(role, {"prompt": "hello"})


def test_prompt_may_be_tokens_and_a_bare_text_goes_as_the_model_likes(role):
    ids = role.opened.tokenizer.encode("hello")
    assert answer(role, {"prompt": ids}) == answer(role, {"prompt": "hello"})
    assert answer(role, {"text": "hello"}) == answer(role, {"prompt": "hello"})
    for wrong in ([1, 96], [1, -1], [1, "a"], [True]):
        with pytest.raises(Unprocessable, match="tokens from 0 to 95"):
            answer(role, {"prompt": wrong})


def test_answer_is_as_long_as_the_least_that_is_asked_for(role):
    for item in ({"tokens_min": 40}, {"ignores_ends": True}):
        assert answer(role, {"prompt": "hi", "tokens_max": 40, **item})["answer_tokens"] == 40
    with pytest.raises(Unprocessable, match="tokens_min"):
        answer(role, {"prompt": "hi", "tokens_max": 4, "tokens_min": 5})
