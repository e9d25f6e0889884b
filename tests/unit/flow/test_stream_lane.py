"""A role that streams answers from a process of its own as it would from a thread of ours."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
import psutil
import pytest

from mesh.errors import (
    ConnectionLost,
    DeadlineExceeded,
    Overloaded,
    Retry,
    RoleError,
    SetupError,
    Unreachable,
)
from mesh.flow import stream_lane
from mesh.flow.local import LocalRoles
from mesh.flow.stream_lane import StreamLane
from mesh.policy.request import Priority, Request
from mesh.roles.base import Context, Piece, StreamRole, Whole
from mesh.settings.schema import Compute, Limits
from mesh.settings.topology import Role as Spec
from mesh.wire.messages import Answer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
KIND = "tests.unit.flow.test_stream_lane:Teller"


class Teller(StreamRole):
    """Counts, and does what it is told in between."""

    takes: ClassVar = {"upto": int, "then": str | None}
    options: ClassVar = {"why": ""}
    resumable = True
    running = 0

    def load(self):
        if self.context.options.get("why") == "setup":
            raise SetupError("one thing", "another thing")
        if self.context.options.get("why") == "other":
            raise OSError("no such file")
        if self.context.options.get("why") == "dies":
            os._exit(7)

    async def stream(self, item, request):
        print("roles may print")  # noqa: T201
        Teller.running += 1
        try:
            for n in range(item["upto"]):
                yield Piece({"n": n, "row": np.full((2, 3), n, np.float32)})
            then = item.get("then")
            if then == "refuse":
                raise Overloaded("not now", retry_after_s=2.5)
            if then == "fail":
                raise ValueError("cannot go on")
            if then == "wait":
                await asyncio.sleep(600)
            if then == "ask":
                yield Piece(await self.context.call("other", {"x": 1}, request))
            told = {"id": request.id, "priority": int(request.priority), "pid": os.getpid()}
            yield Whole(told, queued_ms=1.0, ran_ms=2.0, batch_size=3)
        finally:
            Teller.running -= 1

    def statistics(self):
        return {"running": Teller.running}


def context(**options):
    return Context("teller", options={"why": "", **options}, threads=2)


def request(left_s=30.0):
    return Request("r1", time.monotonic() + left_s, Priority.BATCH)


@asynccontextmanager
async def opened(told=None, **options):
    """Give a lane that is loaded, and the news of it."""
    news: list[bool] = []
    lane = StreamLane(Teller(told or context(**options)), lambda _, is_up: news.append(is_up))
    try:
        await lane.load()
        yield lane, news
    finally:
        await lane.aclose()


async def parts_of(lane, left_s=30.0, **item):
    async with aclosing(lane.role.stream(item, request(left_s))) as parts:
        return [part async for part in parts]


async def wait_until(is_true):
    async with asyncio.timeout(20):
        while not is_true():  # noqa: ASYNC110 - another process has no event
            await asyncio.sleep(0.01)


async def pid_of(lane):
    await wait_until(lambda: "pid" in lane.role.statistics()["process"])
    return lane.role.statistics()["process"]["pid"]


def test_it_streams_in_order_with_arrays_errors_and_questions():
    async def call(role, fields, asked):
        return {"role": role, "x": fields["x"], "id": asked.id}

    async def scenario():
        told = Context("teller", options={"why": ""}, call=call)
        async with opened(told) as (lane, _):
            *pieces, whole = await parts_of(lane, upto=50)
            assert [piece.fields["n"] for piece in pieces] == list(range(50))
            assert pieces[7].fields["row"].tolist() == [[7.0] * 3] * 2
            assert isinstance(whole, Whole)
            assert (whole.queued_ms, whole.ran_ms, whole.batch_size) == (1.0, 2.0, 3)
            assert (whole.fields["id"], whole.fields["priority"]) == ("r1", Priority.BATCH)
            assert whole.fields["pid"] == await pid_of(lane) != os.getpid()
            with pytest.raises(Overloaded, match="not now") as refused:
                await parts_of(lane, upto=2, then="refuse")
            assert (refused.value.retry_after_s, refused.value.node) == (2.5, "")
            with pytest.raises(RoleError, match=r"role 'teller' failed: ValueError: cannot go on"):
                await parts_of(lane, upto=2, then="fail")
            asked, _ = await parts_of(lane, upto=0, then="ask")
            assert asked.fields == {"role": "other", "x": 1, "id": "r1"}
            many = await asyncio.gather(*(parts_of(lane, upto=n) for n in range(40)))
            assert [len(each) for each in many] == list(range(1, 41))

    asyncio.run(scenario())


def test_leaving_and_deadlines_free_the_item_in_the_child():
    async def scenario():
        async with opened() as (lane, _):
            async with aclosing(lane.role.stream({"upto": 1, "then": "wait"}, request())) as parts:
                await anext(parts)
                await wait_until(lambda: lane.role.statistics().get("running") == 1)
            await wait_until(lambda: lane.role.statistics()["running"] == 0)
            with pytest.raises(DeadlineExceeded):
                await parts_of(lane, 0.1, upto=1, then="wait")
            *_, whole = await parts_of(lane, upto=1)
            assert whole.fields["id"] == "r1"

    asyncio.run(scenario())


def test_a_killed_child_fails_what_it_had_so_that_others_may_try_and_comes_back():
    async def scenario():
        async with opened() as (lane, news):
            pid = await pid_of(lane)
            streams = [lane.role.stream({"upto": 1, "then": "wait"}, request()) for _ in range(3)]
            for parts in streams:
                await anext(parts)
            os.kill(pid, signal.SIGKILL)
            for parts in streams:
                with pytest.raises(ConnectionLost) as lost:
                    await anext(parts)
                assert (lost.value.retry, lost.value.node) == (Retry.ELSEWHERE, "")
            assert news == [False]
            with pytest.raises(Unreachable, match="started anew"):
                await parts_of(lane, upto=1)
            await wait_until(lambda: news == [False, True])
            *_, whole = await parts_of(lane, upto=1)
            assert whole.fields["pid"] != pid
            assert lane.role.statistics()["process"]["restarts"] == 1

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("why", "kind", "message"),
    [
        ("setup", SetupError, "one thing\nanother thing"),
        ("other", RoleError, "OSError: no such file"),
        ("dies", RoleError, "the process of role 'teller' ended with 7"),
    ],
)
def test_a_role_that_cannot_load_says_why(why, kind, message):
    async def scenario():
        async with opened(why=why):
            pass

    with pytest.raises(kind, match=message):
        asyncio.run(scenario())


def test_a_child_that_dies_again_and_again_is_waited_for_longer(monkeypatch):
    async def scenario():
        async with opened() as (lane, news):
            waits = []
            started = StreamLane._start_anew

            async def noted(self, wait_s):
                waits.append(wait_s)
                return await started(self, wait_s)

            monkeypatch.setattr(StreamLane, "_start_anew", noted)
            for times in (1, 2):
                os.kill(await pid_of(lane), signal.SIGKILL)
                await wait_until(lambda: len(news) == 2 * times)  # noqa: B023 - waited for here
                lane.figures = {}
            return waits

    least = stream_lane.BACKOFF_S_MIN
    assert asyncio.run(scenario()) == [least, 2 * least]


def test_a_role_whose_layers_are_split_has_no_process_of_its_own():
    role = Teller(Context("teller", links=object()))
    with pytest.raises(SetupError, match=r"roles.teller.lane: .* found 'process'"):
        StreamLane(role, lambda *_: None)


def test_a_role_is_not_offered_while_its_process_is_gone(tmp_path):
    async def scenario():
        offers: list[tuple[str, ...]] = []
        roles = LocalRoles(
            node="n0", data=tmp_path, compute=Compute(), limits=Limits(),
            changed=lambda: offers.append(roles.ready),
        )  # fmt: skip
        await roles.load({"t": Spec(kind=KIND, lane="process")}, {})
        try:
            assert isinstance(await roles.call("t", {"upto": 3}, request()), Answer)
            await wait_until(lambda: "pid" in roles.statistics()["t"]["process"])
            os.kill(roles.statistics()["t"]["process"]["pid"], signal.SIGKILL)
            await wait_until(lambda: len(offers) == 2)
            assert roles.statistics()["t"]["state"] == "restarting"
            assert roles.loaded == ("t",)
            await wait_until(lambda: len(offers) == 3)
            assert isinstance(await roles.call("t", {"upto": 3}, request()), Answer)
        finally:
            await roles.aclose()
        return offers

    assert asyncio.run(scenario()) == [("t",), (), ("t",)]


PARENT = f"""
import asyncio
from mesh.flow.stream_lane import StreamLane
from mesh.roles import custom
from mesh.roles.base import Context
async def main():
    role = custom.find({KIND!r})(Context("teller", options={{"why": ""}}))
    lane = StreamLane(role, lambda *_: None)
    await lane.load()
    while "pid" not in lane.role.statistics()["process"]:
        await asyncio.sleep(0.01)
    print(lane.role.statistics()["process"]["pid"], flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_child_dies_with_its_parent(is_stopped):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        if is_stopped:
            child.suspend()
        parent.kill()
    gone, _ = psutil.wait_procs([child], timeout=10)
    assert [child] == gone


ANSWER = """
import asyncio, sys, time
from pathlib import Path
from mesh.flow.local import LocalRoles
from mesh.policy.request import Request
from mesh.settings.schema import Compute, Limits
from mesh.settings.topology import Model, Role
from mesh.wire.messages import Answer
async def main(lane, folder):
    options = {"weights": "float32", "context_max": 128, "tokens_max": 24, "sequences_max": 4}
    roles = LocalRoles(node="n0", data=Path(folder), compute=Compute(), limits=Limits())
    spec = Role(kind="generate", model="m", lane=lane, options=options)
    await roles.load({"g": spec}, {"m": Model(source="path:" + folder)})
    assert not roles.failed, roles.failed
    told = []
    for item in ({"prompt": "hello"}, {"prompt": "hello", "temperature": 0.9, "seed": 3}):
        async for part in roles.stream("g", item, Request("r", time.monotonic() + 60)):
            told.append(part.fields)
    print(told)
    print([m for m in ("torch", "transformers", "tokenizers") if m in sys.modules])
    assert roles.statistics()["g"]["state"] == "ready"
    await roles.aclose()
asyncio.run(main(*sys.argv[1:]))
"""


def test_a_language_model_answers_the_same_and_leaves_the_node_without_torch(tmp_path):
    from tests.support.decoders import write_talker  # torch: the children of others need none

    folder = str(write_talker(tmp_path / "model"))

    def run(lane):
        command = [sys.executable, "-c", ANSWER, lane, folder]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    (thread, _), (process, heavy) = run("thread"), run("process")
    assert thread == process
    assert heavy == "[]"
