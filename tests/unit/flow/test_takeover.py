"""A newer topology is taken on when it is right, and refused with the reason when it is not."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from mesh.errors import Unprocessable
from mesh.flow.takeover import COPY, SERVICE, SWITCH_S, Takeover, newest
from mesh.observe import logs
from mesh.settings.load import parse_topology
from mesh.wire.messages import Answer, Call
from tests.support.flow import FakeMembership, Reached, member
from tests.support.virtual_loop import run_virtual

LOG = logs.named("test")
FINISH_S = 10.0


def text(epoch: int, *roles: str, name: str = "m") -> str:
    lines = [f'[mesh]\nname = "{name}"\nepoch = {epoch}']
    for role in roles:
        lines.append(f'[roles.{role}]\nkind = "k"\nnodes = ["n0"]')
        stage = f'name = "s"\nrole = "{role}"\ntake = {{ a = "a" }}\ngive = {{ b = "b" }}'
        lines.append(f'[pipelines.{role}]\ninput = ["a"]\noutput = ["b"]')
        lines.append(f"[[pipelines.{role}.stages]]\n{stage}")
    return "\n".join(lines)


def parse(toml: str, source: str):
    return parse_topology(toml, source=source, folder=Path())


class FakePeers:
    """Answers with the text of whoever is asked."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.asked: list[str] = []

    async def call(self, address: str, call: Call) -> Reached:
        assert SERVICE == call.to
        self.asked.append(address)
        return Reached(Answer({"text": self.texts[address]}), 0.0)


class Made:
    """A takeover among fakes."""

    def __init__(self, folder: Path, lacks=lambda topology: []) -> None:
        self.path, self.copy = folder / "topology.toml", folder / COPY.replace("t", "c")
        self.path.write_text(text(1, "a"))
        self.membership, self.peers, self.changes = FakeMembership("n0"), FakePeers(), 0
        self.membership.set([member("n0", ["a"])])
        self.takeover = Takeover(
            parse(text(1, "a"), "start"),
            text(1, "a"),
            path=self.path,
            copy=self.copy,
            parse=parse,
            lacks=lacks,
            membership=self.membership,
            peers=self.peers,
            log=LOG,
            finish_s=FINISH_S,
            changed=self._changed,
            clock=lambda: asyncio.get_running_loop().time(),
        )

    def _changed(self) -> None:
        self.changes += 1

    @contextlib.asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.takeover.run())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def run(folder, scenario, **parts):
    async def main():
        return await scenario(Made(folder, **parts))

    return asyncio.run(main())


def test_duties_go_first_and_doors_follow_once_the_new_role_is_served(tmp_path):
    async def scenario(made):
        takeover = made.takeover
        assert await takeover.offer(text(2, "a", "b"), "test")
        assert (1, 2) == (takeover.current.mesh.epoch, takeover.next.mesh.epoch)
        assert {"a", "b"} == set(takeover.duty().roles)
        assert ["b"] == takeover.statistics()["waits_for"]
        made.membership.set([member("n0", ["a", "b"])])
        takeover._go_on()
        assert 2 == takeover.current.mesh.epoch
        assert made.copy.read_text() == text(2, "a", "b")

    run(tmp_path, scenario)


def test_a_role_that_is_gone_parts_only_after_a_while(tmp_path):
    made = run_parting(tmp_path)
    assert [("a", "b"), ("a", "b"), ("b",)] == made


def run_parting(folder):
    async def scenario():
        made = Made(folder)
        made.membership.set([member("n0", ["a", "b"])])
        takeover = made.takeover
        topology = parse(text(2, "b"), "test")
        takeover._take(topology, text(2, "b"), "test")
        seen = [tuple(sorted(takeover.routable().roles))]
        await asyncio.sleep(FINISH_S / 2)
        takeover._go_on()
        seen.append(tuple(sorted(takeover.duty().roles)))
        await asyncio.sleep(FINISH_S)
        takeover._go_on()
        assert takeover.duty() is takeover.duty() is takeover.next
        return [*seen, tuple(sorted(takeover.routable().roles))]

    return run_virtual(scenario())


def test_a_role_that_nobody_ever_serves_does_not_hold_back_the_rest(tmp_path):
    async def scenario():
        made = Made(tmp_path)
        takeover = made.takeover
        takeover._take(parse(text(2, "a", "b"), "test"), text(2, "a", "b"), "test")
        await asyncio.sleep(SWITCH_S + 1)
        takeover._go_on()
        return takeover.current.mesh.epoch

    assert 2 == run_virtual(scenario())


def test_a_change_that_is_overtaken_is_never_followed(tmp_path):
    async def scenario(made):
        takeover = made.takeover
        await takeover.offer(text(2, "a", "b"), "test")
        await takeover.offer(text(3, "a", "c"), "test")
        assert (1, 3) == (takeover.current.mesh.epoch, takeover.next.mesh.epoch)
        made.membership.set([member("n0", ["a", "c"])])
        takeover._go_on()
        assert (3, {"a", "c"}) == (takeover.current.mesh.epoch, set(takeover.duty().roles))

    run(tmp_path, scenario)


def lacks(_topology):
    return ["models.m: is not here"]


@pytest.mark.parametrize(
    ("offered", "parts", "expected"),
    [
        ("[mesh", {}, "expected TOML"),
        (text(2, name="other"), {}, "another mesh's name"),
        (text(1, "b"), {}, "expected more than 1"),
        (text(0, "b"), {}, "expected more than 1"),
        (text(2, "b").replace("nodes", "nods"), {}, "expected nodes"),
        (text(2, "b"), {"lacks": lacks}, "models.m: is not here"),
        ("#" * (1 << 20) + text(2), {}, "at most"),
    ],
)
def test_a_bad_one_is_refused_with_the_reason_and_the_old_one_stays(
    tmp_path, offered, parts, expected
):
    async def scenario(made):
        with pytest.raises(Unprocessable, match=expected):
            await made.takeover.offer(offered, "test")
        assert made.takeover.next is made.takeover.current
        assert expected in str(made.takeover.statistics()["refused"]["reasons"])
        assert (0, False) == (made.changes, made.copy.exists())

    run(tmp_path, scenario, **parts)


@pytest.mark.slow
def test_the_file_and_peers_are_watched(tmp_path):
    async def scenario(made):
        async with asyncio.timeout(10), made.running():
            made.path.write_text(text(2, "a") + "\n# by hand")
            while made.takeover.current.mesh.epoch != 2:  # noqa: ASYNC110 - a file has no event
                await asyncio.sleep(0.01)
            made.peers.texts["n1:1"] = text(5, "a")
            made.membership.set([member("n0", ["a"]), member("n1", topology_epoch=5)])
            while made.takeover.current.mesh.epoch != 5:  # noqa: ASYNC110 - nor has the loop
                await asyncio.sleep(0.01)
        assert ["n1:1"] == made.peers.asked[:1]

    run(tmp_path, scenario)


def test_what_was_refused_is_not_asked_for_at_every_turn(tmp_path):
    async def scenario(made):
        made.peers.texts["n1:1"] = text(5, "a", name="other")
        made.membership.set([member("n0", ["a"]), member("n1", topology_epoch=5)])
        for _ in range(3):
            await made.takeover._ask_newer()
        assert ["n1:1"] == made.peers.asked

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("kept", "expected"),
    [(None, 3), (text(2), 3), (text(4), 4), (text(9, name="other"), 3), ("broken", 3)],
)
def test_a_restart_begins_with_the_newest(tmp_path, kept, expected):
    copy = tmp_path / "copy.toml"
    if kept is not None:
        copy.write_text(kept)
    begun, _ = newest(parse(text(3), "file"), text(3), copy, parse, LOG)
    assert expected == begun.mesh.epoch
