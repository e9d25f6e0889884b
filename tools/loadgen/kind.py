"""What is sent and what counts as a right answer, for each kind of request.

Pure. A kind prepares bodies before the run, so that nothing is serialised while it lasts,
and judges an answer after its time was taken.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import prod
from typing import Any

import orjson
from msgspec import Struct, field

from tools.loadgen.sample import StageTime

JSON = "application/json"
BODIES_KEPT = 8  # distinct tensors; a 3 MB body each is enough memory
QUESTIONS = (
    "How do I parse a date from a string?",
    "How do I read a CSV file row by row?",
    "How can I run several threads and wait for all of them?",
    "How do I make a temporary directory that removes itself?",
    "How do I compute the SHA-256 of a file?",
    "How do I flatten a list of lists into one iterator?",
    "How do I sort a list of dictionaries by one key?",
    "How do I copy a whole directory tree?",
    "How do I split a path into its folder and its file name?",
    "How do I count how often each word occurs?",
    "How do I encode bytes as base64?",
    "How do I match text with a regular expression?",
    "How do I measure how long some code takes?",
    "How do I start another program and read what it prints?",
    "How do I keep the largest items of a stream?",
    "How do I write log messages to a file?",
)


class What(Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of request in a run, as the command line or a scenario file names it."""

    kind: str = "pipeline"  # pipeline | lines | query | infer | chat | post
    weight: float = 1.0  # share of the mix
    pipeline: str = "ask"
    path: str = ""  # post: where to
    inputs: list[dict[str, Any]] = field(default_factory=list)  # bodies; empty: questions
    stream: bool = False
    shape: tuple[int, ...] = (1, 224, 224, 3)  # infer
    encoding: str = "json"  # infer: json | octet-stream
    model: str = ""  # infer, chat
    tokens_max: int = 64  # chat
    temperature: float = 0.0  # chat
    peer: str = ""  # lines: "host:port" on which the node speaks to others


class Ready(Struct, frozen=True):
    """One request, ready to send."""

    path: str
    body: tuple[bytes, ...]  # sent one after the other
    content_type: str = JSON
    is_stream: bool = False
    number: int = 0
    is_line: bool = False  # then `path` is an address


class Verdict(Struct, frozen=True):
    """What a complete answer says."""

    failure: str = ""
    node: str = ""
    stages: tuple[StageTime, ...] = ()
    tokens: int = 0
    note: str = ""


def kind_of(what: What, seed: int, run: str = "") -> Kind:
    """Return the kind that `what` names, ready to make requests.

    Args:
        what: as the command line or a scenario file names it.
        seed: of random tensors.
        run: makes request ids differ from those of other runs: an id that a node has seen
            is a repeated question, and gets the answer of the first.

    Raises:
        KeyError: there is no such kind.
    """
    made = KINDS[what.kind](what, seed)
    made.run = run
    return made


class Kind:
    """Posts JSON bodies in turn and takes any JSON object for an answer."""

    run = ""

    def __init__(self, what: What, seed: int) -> None:
        self.what = what
        self.seed = seed
        self.path = what.path or "/"
        self.bodies = [orjson.dumps(one) for one in self.inputs()]

    def inputs(self) -> Sequence[dict[str, Any]]:
        """Return the bodies, without a request id."""
        return self.what.inputs or [{}]

    def ready(self, number: int) -> Ready:
        """Return the request of that number."""
        body = self.bodies[number % len(self.bodies)]
        return Ready(self.path, (body,), is_stream=self.what.stream, number=number)

    def id_of(self, number: int) -> str:
        """Return the id of the request of that number."""
        return f"req_{number}{self.run}"

    def _head(self, number: int) -> bytes:
        """Return the beginning of a JSON body that carries the request's id."""
        return f'{{"request_id":"{self.id_of(number)}",'.encode()

    def judge(self, ready: Ready, body: bytes) -> Verdict:
        """Say whether a complete body (of a stream: its last event) is a right answer."""
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            return Verdict("bad_payload", note=body[:80].decode(errors="replace"))
        if not isinstance(answer, dict):
            return Verdict("bad_payload", note=body[:80].decode(errors="replace"))
        return self.read(ready, answer)

    def read(self, ready: Ready, answer: dict[str, Any]) -> Verdict:
        """Say whether an answer is right, and who gave it."""
        return Verdict()


class Pipeline(Kind):
    """`POST /v1/pipelines/NAME`; right when it has a trace and no empty answer."""

    def __init__(self, what: What, seed: int) -> None:
        super().__init__(what, seed)
        self.path = f"/v1/pipelines/{what.pipeline}"
        if what.stream:
            self.bodies = [orjson.dumps({**one, "stream": True}) for one in self.inputs()]

    def inputs(self) -> Sequence[dict[str, Any]]:
        """Return the questions, unless inputs were given."""
        return self.what.inputs or [{"query": question} for question in QUESTIONS]

    def read(self, ready: Ready, answer: dict[str, Any]) -> Verdict:
        """Read the stages from the trace."""
        trace = answer.get("trace")
        if not isinstance(trace, dict):
            return Verdict("wrong_answer", note="no trace in it")
        if "answer" in answer and not answer["answer"]:
            return Verdict("wrong_answer", note="an empty answer")
        return Verdict(stages=tuple(stage_of(one) for one in trace.get("stages", ())))


class Lines(Pipeline):
    """A pipeline by JSON lines on the port for nodes; right as by HTTP, and with its own id."""

    def ready(self, number: int) -> Ready:
        """Return a line."""
        head = orjson.dumps({"id": self.id_of(number), "method": self.what.pipeline})
        body = self.bodies[number % len(self.bodies)]
        line = b'%b,"params":%b}\n' % (head[:-1], body)
        return Ready(self.what.peer, (line,), number=number, is_line=True)

    def read(self, ready: Ready, answer: dict[str, Any]) -> Verdict:
        """Read the answer in the line."""
        if "error" in answer:
            return Verdict("line_error", note=str(answer["error"]))
        if answer.get("id") != self.id_of(ready.number):
            return Verdict("wrong_answer", note="another request's id")
        return super().read(ready, answer["result"])


class Query(Kind):
    """`POST /query`; right when it has exactly the contract's four keys and our request id."""

    KEYS = frozenset({"request_id", "generated_response", "sentiment", "is_toxic"})

    def __init__(self, what: What, seed: int) -> None:
        super().__init__(what, seed)
        self.path = "/query"

    def inputs(self) -> Sequence[dict[str, Any]]:
        """Return the questions, unless inputs were given."""
        return self.what.inputs or [{"query": question} for question in QUESTIONS]

    def ready(self, number: int) -> Ready:
        """Return the request of that number, with an id of its own."""
        rest = self.bodies[number % len(self.bodies)][1:]
        return Ready(self.path, (self._head(number), rest), number=number)

    def read(self, ready: Ready, answer: dict[str, Any]) -> Verdict:
        """Compare keys and id."""
        if answer.keys() != self.KEYS or answer["request_id"] != self.id_of(ready.number):
            return Verdict("wrong_answer", note=f"keys {sorted(answer)}")
        if not answer["generated_response"]:
            return Verdict("wrong_answer", note="an empty answer")
        return Verdict()


class Infer(Kind):
    """`POST /infer`; right when 1000 numbers add up to one, for our request id.

    Bodies are random floats, a few of them prepared: what is measured is neither this
    program's random numbers nor its JSON writer.
    """

    def __init__(self, what: What, seed: int) -> None:
        super().__init__(what, seed)
        self.path = "/infer"
        if what.encoding == "octet-stream":
            self.bodies = [_floats(one, prod(what.shape)) for one in range(seed, seed + 8)]

    def inputs(self) -> Sequence[dict[str, Any]]:
        """Return a few tensors, unless inputs were given or bytes are wanted."""
        if self.what.inputs or self.what.encoding != "json":
            return self.what.inputs
        count = prod(self.what.shape)
        rng = random.Random(self.seed)
        return [
            {
                "model_name": self.what.model or "default_model",
                "input_data": [rng.random() for _ in range(count)],
                "input_shape": list(self.what.shape),
                "timestamp": 0.0,
            }
            for _ in range(BODIES_KEPT)
        ]

    def ready(self, number: int) -> Ready:
        """Return the request of that number, with an id of its own."""
        body = self.bodies[number % len(self.bodies)]
        if self.what.encoding != "json":
            path = f"{self.path}?request_id={self.id_of(number)}"
            return Ready(path, (body,), "application/octet-stream", number=number)
        return Ready(self.path, (self._head(number), body[1:]), number=number)

    def read(self, ready: Ready, answer: dict[str, Any]) -> Verdict:
        """Check that the answer is a distribution over 1000 classes."""
        numbers, node = answer.get("output_data"), str(answer.get("node_id", ""))
        if not isinstance(numbers, list) or len(numbers) != 1000:
            return Verdict("wrong_answer", node, note="expected 1000 numbers in output_data")
        if abs(sum(numbers) - 1.0) > 1e-3:
            return Verdict("wrong_answer", node, note=f"sum {sum(numbers):.4f}, expected 1")
        if answer.get("request_id") != self.id_of(ready.number):
            return Verdict("wrong_answer", node, note="another request's id")
        return Verdict(node=node)


class Chat(Kind):
    """`POST /v1/chat/completions`; right when it ended for a reason and its text is not empty."""

    def __init__(self, what: What, seed: int) -> None:
        super().__init__(what, seed)
        self.path = "/v1/chat/completions"

    def inputs(self) -> Sequence[dict[str, Any]]:
        """Return one chat per question."""
        what = self.what
        common: dict[str, Any] = {
            "model": what.model or "generate",
            "max_tokens": what.tokens_max,
            "temperature": what.temperature,
            "stream": what.stream,
        }
        if what.stream:
            common["stream_options"] = {"include_usage": True}
        given = what.inputs or [
            {"messages": [{"role": "user", "content": question}]} for question in QUESTIONS
        ]
        return [{**common, **one} for one in given]

    def read(self, ready: Ready, answer: dict[str, Any]) -> Verdict:
        """Read the usage; of a stream, `answer` is the chunk that carries it."""
        usage = answer.get("usage") or {}
        tokens = int(usage.get("completion_tokens", 0))
        if not ready.is_stream and not (answer.get("choices") or [{}])[0].get("finish_reason"):
            return Verdict("wrong_answer", note="no finish_reason")
        return Verdict(tokens=tokens)


KINDS: dict[str, type[Kind]] = {
    "pipeline": Pipeline,
    "lines": Lines,
    "query": Query,
    "infer": Infer,
    "chat": Chat,
    "post": Kind,
}


def stage_of(stage: dict[str, Any]) -> StageTime:
    """Return one stage of a trace."""
    return StageTime(
        str(stage.get("name", "")),
        str(stage.get("node", "")),
        float(stage.get("queued_ms") or 0.0),
        float(stage.get("ran_ms") or 0.0),
        float(stage.get("network_ms") or 0.0),
        int(stage.get("batch_size") or 1),
        bool(stage.get("cached")),
    )


def _floats(seed: int, count: int) -> bytes:
    """Return `count` random float32 values, little-endian."""
    import numpy as np

    return np.random.default_rng(seed).random(count, dtype=np.float32).astype("<f4").tobytes()
