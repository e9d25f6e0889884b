"""The door of JSON lines: a method is a pipeline, and its params are the pipeline's input.

Shell: answers what `net.lines` reads on the port for nodes, as `api.native` answers
`POST /v1/pipelines/{name}`: with the same checks, limits and errors, and counted with them.
"""

from __future__ import annotations

from time import monotonic

import orjson

from mesh.api import answer, intake
from mesh.api.native import PipelineDoor, counted, note, take
from mesh.api.parts import Parts
from mesh.errors import Unauthorized, Unprocessable
from mesh.net.lines import SERVICE
from mesh.net.peers import Peers
from mesh.net.stream import Reply
from mesh.policy.request import Priority
from mesh.wire.messages import Answer, Call, Fields


def serve(parts: Parts, peers: Peers) -> None:
    """Let the connections of `peers` that speak JSON lines ask a node's pipelines."""

    async def handle(call: Call, reply: Reply) -> Answer:
        return await _answered(parts, call.fields["method"], dict(call.fields["params"]))

    peers.serve(SERVICE, handle)


async def _answered(parts: Parts, method: str, body: Fields) -> Answer:
    settings = parts.settings
    if settings.security.api_keys:
        raise Unauthorized("this node wants keys, and JSON lines have no place for one")
    door = PipelineDoor(parts, method)
    door.check()
    asked = intake.made(
        intake.new_id(), monotonic(), settings.limits, door.deadline_s, None, Priority.NORMAL, ""
    )
    with parts.admission.admit(asked):
        taken = take(door, body, asked)
        if taken.wants_events:
            raise Unprocessable("JSON lines do not stream; ask over HTTP")
        fields = door.typed(body)
        with counted(parts, door.label):
            outcome = await door.run(fields, taken)
    note(parts, door.label, outcome.trace)
    result = {**outcome.fields, "trace": outcome.trace}
    return Answer({name: orjson.Fragment(answer.encode(value)) for name, value in result.items()})
