"""The package `openai`, used as its documentation shows, works against any node of a mesh."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import openai
import pytest

from mesh.api import openai_form
from mesh.settings.schema import Security
from tests.support.decoders import write_talker
from tests.support.live import mesh, url
from tests.support.topologies import pipeline, role
from tests.support.town import Town

pytestmark = pytest.mark.live

TEMPLATE = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}assistant:"
TOPOLOGY = """
[mesh]
name = "talk"
[models.tiny]
source = "path:FOLDER"
[roles.talk]
kind = "generate"
model = "tiny"
nodes = ["n1"]
weights = "float32"
context_max = 128
sequences_max = 4
tokens_max = 8
"""
TOPOLOGY += (
    role("shout", "Shout", "n0")
    + role("spell", "Spell", "n2")
    + pipeline(
        "ask",
        "query",
        "answer loud",
        ("shout", "text=query", "text=loud"),
        ("spell", "text=loud", "spelled=answer"),
    )
    + pipeline("tell", "text", "said", ("talk", "text=text", "answer=said"))
)
ASKED = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]


def engine_of(town):
    """Return what the language model's engine counts."""
    return town.nodes[1].local.statistics()["talk"]["engine"]


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    folder = tmp_path_factory.mktemp("town")
    text = TOPOLOGY.replace("FOLDER", str(write_talker(folder / "tiny", TEMPLATE)))
    with Town(folder, text) as town:
        yield town


@pytest.fixture(scope="module")
def clients(town):
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                openai.OpenAI(base_url=url(node, "/v1"), api_key="none", max_retries=0)
            )
            for node in town.nodes
        ]


@pytest.fixture(scope="module")
def client(clients):
    return clients[0]


def test_models_are_roles_models_and_pipelines_of_text(clients):
    for client in clients:
        assert {model.id for model in client.models.list()} == {"talk", "tiny", "ask", "tell"}
    model = client.models.retrieve("ask")
    assert (model.id, model.object, model.owned_by) == ("ask", "model", "talk")
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-9")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_chat_answers_alike_from_every_door_streamed_or_not(clients):
    texts = set()
    for client in clients:
        whole = client.chat.completions.create(model="tiny", messages=ASKED, max_tokens=12)
        choice = whole.choices[0]
        assert (whole.object, choice.message.role) == ("chat.completion", "assistant")
        assert (choice.finish_reason, choice.logprobs) == ("length", None)
        assert whole.usage.completion_tokens == 12
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + 12
        stream = client.chat.completions.create(
            model="talk",
            messages=ASKED,
            max_completion_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
        *chunks, last = list(stream)
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].choices[0].finish_reason == "length"
        assert all(chunk.usage is None for chunk in chunks)
        assert (last.choices, last.usage) == ([], whole.usage)
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert said == choice.message.content
        texts.add(said)
    assert len(texts) == 1


def test_template_of_the_model_is_used(client):
    prompt = "system:be brief\nuser:hello\nassistant:"
    by_chat = client.chat.completions.create(model="talk", messages=ASKED)
    by_prompt = client.completions.create(model="talk", prompt=prompt, max_tokens=8)
    assert by_chat.choices[0].message.content == by_prompt.choices[0].text
    assert by_chat.usage == by_prompt.usage
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    messages = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}]
    again = client.chat.completions.create(model="talk", messages=messages, user="me", store=False)
    assert again.choices == by_chat.choices


def test_completions_take_texts_tokens_and_lists(client):
    one = client.completions.create(model="talk", prompt="hello")
    assert one.object == "text_completion"
    assert (one.usage.prompt_tokens, one.usage.completion_tokens) == (5, 16)
    ids = client.completions.create(model="talk", prompt=[7, 8, 9], max_tokens=3)
    assert ids.usage.prompt_tokens == 3
    many = client.completions.create(model="talk", prompt=["hello", "you"], n=2, echo=True)
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    assert many.choices[0].text == many.choices[1].text == "hello" + one.choices[0].text
    assert many.choices[2].text.startswith("you")
    assert (many.usage.prompt_tokens, many.usage.completion_tokens) == (8, 64)
    stream = client.completions.create(model="talk", prompt="hello", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == one.choices[0].text


def test_seed_decides_and_choices_differ(client):
    def ask(**options):
        made = client.completions.create(
            model="talk", prompt="hello", temperature=1.0, top_p=0.95, max_tokens=12, **options
        )
        return [choice.text for choice in made.choices]

    first = ask(seed=5, n=3)
    assert ask(seed=5, n=3) == first
    assert len(set(first)) == 3
    assert ask(seed=5) == first[:1]
    assert ask() != ask()
    stream = client.completions.create(
        model="talk", prompt="hello", temperature=1.0, top_p=0.95, seed=5, n=3, stream=True,
        max_tokens=12,
    )  # fmt: skip
    texts = ["", "", ""]
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == first


def test_choices_are_those_of_separate_requests(client):
    """Their prompt is read once, and yet each is as if it was alone with its seed."""
    wishes = {"temperature": 1.0, "max_tokens": 12}
    prompt = "tell me of the sea and all that lives in it, and then of the land and the people"
    together = client.completions.create(model="talk", prompt=prompt, n=4, seed=5, **wishes)
    body = {"model": "talk", "prompt": prompt, "n": 4, "seed": 5}
    seeds = [call["seed"] for call in openai_form.completion(body).calls(0)]
    alone = [
        client.completions.create(model="talk", prompt=prompt, seed=seed, **wishes)
        for seed in seeds
    ]
    assert [each.text for each in together.choices] == [each.choices[0].text for each in alone]
    assert together.usage.prompt_tokens == alone[0].usage.prompt_tokens
    assert len({each.text for each in together.choices}) == 4


def test_usage_tells_what_was_known_of_a_conversation(clients):
    """Its second turn comes by another door, whole or streamed, and only what is new is read."""
    asked = [{"role": "user", "content": "tell me of rivers, of the rain, and of what is between."}]
    wishes = {"model": "talk", "max_tokens": 12, "extra_body": {"ignore_eos": True}}
    first = clients[0].chat.completions.create(messages=asked, **wishes)
    said = {"role": "assistant", "content": first.choices[0].message.content}
    asked += [said, {"role": "user", "content": "and then?"}]
    second = clients[1].chat.completions.create(messages=asked, **wishes).usage
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    known = second.prompt_tokens_details.cached_tokens
    assert first.usage.prompt_tokens <= known < second.prompt_tokens
    asked[-1] = {"role": "user", "content": "and why so?"}
    *_, last = clients[2].chat.completions.create(
        messages=asked, stream=True, stream_options={"include_usage": True}, **wishes
    )
    assert last.usage.prompt_tokens_details.cached_tokens >= known


def test_nothing_left_of_the_odds_is_the_best_token(client):
    best = client.completions.create(model="talk", prompt="hello", temperature=0)
    same = client.completions.create(model="talk", prompt="hello", temperature=1, top_p=0)
    assert same.choices == best.choices


def test_stop_ends_before_the_string(client):
    whole = client.completions.create(model="talk", prompt="hello").choices[0].text
    stop = whole[6:8]
    for wanted in (stop, [stop, "never said"]):
        cut = client.completions.create(model="talk", prompt="hello", stop=wanted).choices[0]
        assert (cut.text, cut.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_extensions_and_penalties_are_understood(client):
    made = client.completions.create(
        model="talk",
        prompt="hello",
        max_tokens=20,
        presence_penalty=0.5,
        frequency_penalty=1.5,
        extra_body={
            "ignore_eos": True,
            "min_tokens": 20,
            "top_k": 40,
            "min_p": 0.0,
            "repetition_penalty": 1.1,
        },
    )
    assert made.usage.completion_tokens == 20


def test_logprobs_tell_of_each_token(client):
    whole = client.chat.completions.create(
        model="talk", messages=ASKED, max_tokens=5, logprobs=True, top_logprobs=2
    )
    told = whole.choices[0].logprobs.content
    assert "".join(odd.token for odd in told) == whole.choices[0].message.content
    assert all(len(odd.top_logprobs) == 2 for odd in told)
    assert all(odd.top_logprobs[0].logprob >= odd.logprob for odd in told)
    stream = client.chat.completions.create(
        model="talk", messages=ASKED, max_tokens=5, logprobs=True, top_logprobs=2, stream=True
    )
    pieces = [chunk.choices[0].logprobs for chunk in stream]
    assert [odd for piece in pieces if piece for odd in piece.content] == told
    old = client.completions.create(model="talk", prompt="hello", logprobs=1, max_tokens=3)
    odds = old.choices[0].logprobs
    assert "".join(odds.tokens) == old.choices[0].text
    ends = [len("".join(odds.tokens[:at])) for at in range(3)]
    assert [len(odds.token_logprobs), odds.text_offset] == [3, ends]


def test_pipeline_is_a_model(clients):
    messages = [*ASKED, {"role": "assistant", "content": "H"}, {"role": "user", "content": "abc"}]
    for client in clients:
        whole = client.chat.completions.create(model="ask", messages=messages)
        assert whole.choices[0].message.content == "A B C "
        assert whole.choices[0].finish_reason == "stop"
        assert whole.model_extra["mesh"] == {"loud": "ABC"}
        stream = client.chat.completions.create(model="ask", messages=messages, stream=True)
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
        assert pieces == ["", "A ", "B ", "C ", ""]
    told = client.chat.completions.create(model="tell", messages=ASKED)
    plain = [{"role": "user", "content": "hello"}]
    direct = client.chat.completions.create(model="talk", messages=plain)
    assert told.choices == direct.choices
    assert told.usage == direct.usage


def test_key_is_asked_for_in_the_shape_of_the_api(tmp_path):
    async def main():
        security = Security(api_keys=("right",))
        async with mesh(tmp_path, count=3, security=security) as (nodes, _):
            base = url(nodes[0], "/v1")
            async with openai.AsyncOpenAI(base_url=base, api_key="wrong", max_retries=0) as client:
                with pytest.raises(openai.AuthenticationError) as caught:
                    await client.chat.completions.create(model="ask", messages=ASKED)
                error = caught.value
                assert (error.code, error.type) == ("invalid_api_key", "authentication_error")
                with pytest.raises(openai.AuthenticationError):
                    await client.models.list()
            async with openai.AsyncOpenAI(base_url=base, api_key="right") as client:
                whole = await client.chat.completions.create(model="ask", messages=ASKED)
                assert whole.choices[0].message.content == "H E L L O "

    asyncio.run(main())


BAD = [
    ({"model": "gpt-9"}, openai.NotFoundError, "model", "model_not_found"),
    ({"model": 5}, openai.BadRequestError, "model", None),
    ({"messages": []}, openai.BadRequestError, "messages", None),
    ({"messages": "hi"}, openai.BadRequestError, "messages", None),
    ({"messages": [{"role": "king", "content": "x"}]}, openai.BadRequestError, "messages", None),
    ({"messages": [{"role": "user", "content": 5}]}, openai.BadRequestError, "messages", None),
    ({"temperature": "hot"}, openai.BadRequestError, "temperature", None),
    ({"messages": [{"role": "user"}]}, openai.BadRequestError, "messages", None),
    ({"messages": [{"role": "user", "content": []}]}, openai.BadRequestError, "messages", None),
    ({"messages": [{"content": "hi"}]}, openai.BadRequestError, "messages", None),
    ({"temperature": -1}, openai.BadRequestError, "temperature", None),
    ({"temperature": 1e308}, openai.BadRequestError, "temperature", None),
    ({"top_p": 1.5}, openai.BadRequestError, "top_p", None),
    ({"top_k": 1.5}, openai.BadRequestError, "top_k", None),
    ({"min_p": -0.1}, openai.BadRequestError, "min_p", None),
    ({"repetition_penalty": 0}, openai.BadRequestError, "repetition_penalty", None),
    ({"presence_penalty": 3}, openai.BadRequestError, "presence_penalty", None),
    ({"frequency_penalty": -3}, openai.BadRequestError, "frequency_penalty", None),
    ({"min_tokens": -1}, openai.BadRequestError, "min_tokens", None),
    ({"min_tokens": 9}, openai.BadRequestError, "min_tokens", None),
    ({"min_tokens": 9, "max_tokens": 8}, openai.BadRequestError, "min_tokens", None),
    ({"ignore_eos": "no"}, openai.BadRequestError, "ignore_eos", None),
    ({"max_tokens": 0}, openai.BadRequestError, "max_tokens", None),
    ({"max_tokens": 10**30}, openai.BadRequestError, "max_tokens", None),
    ({"max_completion_tokens": 0}, openai.BadRequestError, "max_completion_tokens", None),
    ({"max_tokens": 1.5}, openai.BadRequestError, "max_tokens", None),
    ({"n": 0}, openai.BadRequestError, "n", None),
    ({"n": 1000}, openai.BadRequestError, "n", None),
    ({"stop": 7}, openai.BadRequestError, "stop", None),
    ({"stop": ["x"] * 17}, openai.BadRequestError, "stop", None),
    ({"seed": "x"}, openai.BadRequestError, "seed", None),
    ({"seed": 2**63}, openai.BadRequestError, "seed", None),
    ({"logprobs": 5}, openai.BadRequestError, "logprobs", None),
    ({"tool_choice": "required"}, openai.BadRequestError, "tool_choice", None),
    ({"function_call": {"name": "f"}}, openai.BadRequestError, "function_call", None),
    ({"modalities": ["audio"]}, openai.BadRequestError, "modalities", None),
    ({"stream_options": {"include_usage": 1}}, openai.BadRequestError, "stream_options", None),
    ({"model": "ask", "logprobs": True}, openai.BadRequestError, "logprobs", None),
    ({"top_logprobs": 2}, openai.BadRequestError, "top_logprobs", None),
    ({"logprobs": True, "top_logprobs": 99}, openai.BadRequestError, "top_logprobs", None),
    ({"logit_bias": {"5": 1}}, openai.BadRequestError, "logit_bias", None),
    ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "response_format", None),
    ({"stream": "yes"}, openai.BadRequestError, "stream", None),
    ({"messages": [{"role": "user", "content": "x" * 500}]}, openai.BadRequestError, "messages",
     "context_length_exceeded"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "kind", "param", "code"), BAD)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_errors_are_those_of_the_api(client, wrong, kind, param, code, is_streamed):
    body = {"model": "talk", "messages": ASKED, "stream": is_streamed, **wrong}
    with pytest.raises(kind) as caught:
        client.post("/chat/completions", body=body, cast_to=object)
    error = caught.value
    assert (error.param, error.code, error.type) == (param, code, "invalid_request_error")
    assert error.body["message"]
    assert error.request_id


PROMPTS = ["", [], [""], ["a", ""], [[]], [5, "x"], {"a": 1}, [1000], [-1], [10**30], None]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_wrong_prompts_are_refused(clients, prompt):
    """At every door, also where another node found out."""
    for client in clients:
        with pytest.raises(openai.BadRequestError) as caught:
            client.post("/completions", body={"model": "talk", "prompt": prompt}, cast_to=object)
        assert (caught.value.param, caught.value.code) == ("prompt", None)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b'{"model":NaN}', b"[" * 9999 + b"]" * 9999]
)
def test_what_is_no_body_is_an_error_of_the_api(client, raw):
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", content=raw, cast_to=object)
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    assert caught.value.type == "invalid_request_error"


def test_usage_of_a_stream_is_for_streams(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="talk", messages=ASKED, stream_options={"include_usage": True}
        )
    assert caught.value.param == "stream_options"


@pytest.mark.parametrize("method", ["delete", "put"])
def test_a_wrong_method_is_an_error_of_the_api(client, method):
    for path in ("/models/talk", "/models", "/chat/completions"):
        with pytest.raises(openai.APIStatusError) as caught:
            getattr(client, method)(path, cast_to=object)
        assert caught.value.status_code == 405
        assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize("path", ["", "/", "/files", "/models/", "/chat/completions/", "/audio/x"])
def test_what_leads_nowhere_is_an_error_of_the_api(client, path):
    with pytest.raises(openai.NotFoundError) as caught:
        client.get(path, cast_to=object)
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    assert (caught.value.type, caught.value.code) == ("invalid_request_error", "not_found")


def test_error_in_mid_stream_reaches_the_caller(client):
    said = [{"role": "user", "content": "fail"}]
    stream = client.chat.completions.create(model="ask", messages=said, stream=True)
    with pytest.raises(openai.APIError):
        list(stream)


def test_dropped_stream_frees_what_it_held_on_every_node(town, clients):
    def is_idle():
        engine = engine_of(town)
        return not engine["running"] and not engine["waiting"]

    before = engine_of(town)["ended"].get("cancelled", 0)
    for client in clients:
        stream = client.chat.completions.create(
            model="talk", messages=ASKED, stream=True, max_tokens=100, n=3,
            extra_body={"ignore_eos": True},
        )  # fmt: skip
        next(iter(stream))
        stream.close()
        town.wait(is_idle)
    assert engine_of(town)["ended"].get("cancelled", 0) - before >= len(clients)
    assert engine_of(town)["kv_blocks_used"] == 0
