"""What is sent is readable, and only a right answer counts as one."""

from __future__ import annotations

import orjson
import pytest

from tools.loadgen.kind import QUESTIONS, What, kind_of


def body_of(kind, number):
    return orjson.loads(b"".join(kind.ready(number).body))


def test_questions_take_turns():
    kind = kind_of(What(), seed=1)
    asked = [body_of(kind, n)["query"] for n in range(len(QUESTIONS) + 1)]
    assert [*QUESTIONS, QUESTIONS[0]] == asked


def test_ids_differ_between_requests_and_runs():
    """A node takes an id that it has seen for the same question once more."""
    ids = {body_of(kind_of(What("query"), 1, run), n)["request_id"] for n in (1, 2) for run in "ab"}
    assert 4 == len(ids)


def test_query_wants_exactly_the_four_keys():
    kind = kind_of(What("query"), seed=1, run="-x")
    good = {"request_id": "req_3-x", "generated_response": "a", "sentiment": "b", "is_toxic": "c"}
    table = {
        "": good,
        "wrong_answer": {**good, "more": 1},
        "bad_payload": [],
    }
    for expected, answer in table.items():
        assert expected == kind.judge(kind.ready(3), orjson.dumps(answer)).failure
    assert kind.judge(kind.ready(4), orjson.dumps(good)).failure == "wrong_answer"
    assert kind.judge(kind.ready(3), b"<html>").failure == "bad_payload"


def test_tensor_has_its_shape_and_its_answer_adds_up():
    kind = kind_of(What("infer", shape=(1, 2, 3)), seed=1)
    assert 6 == len(body_of(kind, 0)["input_data"])
    good = {"request_id": "req_0", "output_data": [0.001] * 1000, "node_id": "n1"}
    verdict = kind.judge(kind.ready(0), orjson.dumps(good))
    assert ("", "n1") == (verdict.failure, verdict.node)
    for wrong in ({"output_data": [0.1] * 1000}, {"output_data": [1.0]}, {"request_id": "req_9"}):
        assert kind.judge(kind.ready(0), orjson.dumps({**good, **wrong})).failure == "wrong_answer"


def test_octets_are_the_tensor_itself():
    ready = kind_of(What("infer", shape=(4,), encoding="octet-stream"), seed=1).ready(7)
    assert 16 == len(ready.body[0])
    assert ready.path.endswith("request_id=req_7")


@pytest.mark.parametrize("stream", [True, False])
def test_chat_asks_for_usage_where_it_streams(stream):
    body = body_of(kind_of(What("chat", stream=stream, tokens_max=9), seed=1), 0)
    assert (9, stream) == (body["max_tokens"], body["stream"])
    assert stream == ("stream_options" in body)


def test_pipeline_without_a_trace_is_wrong():
    kind = kind_of(What(), seed=1)
    assert kind.judge(kind.ready(0), b'{"answer": "x"}').failure == "wrong_answer"
    assert kind.judge(kind.ready(0), b'{"answer": "", "trace": {}}').failure == "wrong_answer"
    assert kind.judge(kind.ready(0), b'{"answer": "x", "trace": {}}').failure == ""
