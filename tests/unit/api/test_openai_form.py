"""Bodies of OpenAI's routes become what roles take, or an error that names the field."""

from __future__ import annotations

import pytest

from mesh.api import openai_form
from mesh.errors import BadRequest

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_names_become_those_of_the_role():
    wanted = openai_form.chat(
        {
            **CHAT,
            "max_tokens": 5,
            "max_completion_tokens": 7,
            "repetition_penalty": 1.5,
            "ignore_eos": True,
            "min_tokens": 2,
            "top_k": -1,
            "stop": "x",
            "seed": 3,
            "logprobs": True,
            "user": "unknown fields are passed over",
        }
    )
    assert wanted.options == {
        "tokens_max": 7,
        "tokens_min": 2,
        "ignores_ends": True,
        "top_k": 0,
        "repetition": 1.5,
        "seed": 3,
        "stop": ["x"],
        "logprobs": 0,
    }


def test_nothing_said_leaves_the_role_its_own():
    wanted = openai_form.chat(CHAT)
    assert (wanted.options, wanted.count, wanted.is_streamed) == ({}, 1, False)
    assert openai_form.completion({"model": "m", "prompt": "x"}).options == {"tokens_max": 16}


def test_nulls_are_as_if_not_said():
    nulls = dict.fromkeys(
        ("n", "stop", "seed", "stream", "stream_options", "temperature", "logprobs", "logit_bias",
         "response_format", "max_tokens", "top_k"),
    )  # fmt: skip
    assert openai_form.chat({**CHAT, **nulls}) == openai_form.chat(CHAT)


def test_each_choice_has_a_seed_that_follows_from_the_first():
    wanted = openai_form.completion({"model": "m", "prompt": ["a", "b"], "n": 3, "seed": 9})
    calls = wanted.calls(chance=1)
    assert [call["prompt"] for call in calls] == ["a"] * 3 + ["b"] * 3
    seeds = [call["seed"] for call in calls]
    assert seeds[0] == 9
    assert seeds[:3] == seeds[3:]
    assert len(set(seeds)) == 3
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_pipeline_gets_the_users_last_word():
    turns = [("system", "s"), ("user", "one"), ("assistant", "a"), ("user", "two"), ("tool", "t")]
    messages = [{"role": role, "content": content} for role, content in turns]
    assert openai_form.chat({"model": "m", "messages": messages}).texts == ("two",)
    assert openai_form.chat({"model": "m", "messages": messages[:1]}).texts == (None,)


@pytest.mark.parametrize(
    ("prompt", "items"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2]], [[1], [2]])],
)
def test_prompts_come_in_four_forms(prompt, items):
    wanted = openai_form.completion({"model": "m", "prompt": prompt})
    assert [item["prompt"] for item in wanted.items] == items


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": ["a"] * 40, "n": 2}, "n"),
        ({"prompt": [1], "echo": True}, "echo"),
        ({"prompt": "a", "echo": True, "logprobs": 1}, "echo"),
        ({"prompt": "a", "seed": 2**64}, "seed"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "a", "stream_options": {}}, "stream_options"),
        ({"prompt": "a", "min_tokens": 17}, "min_tokens"),
        ({"prompt": "a", "stop": ["x"] * 17}, "stop"),
        ({}, "prompt"),
    ],
)
def test_what_cannot_be_honoured_is_named(body, param):
    with pytest.raises(BadRequest) as caught:
        openai_form.completion({"model": "m", **body})
    assert caught.value.param == param
