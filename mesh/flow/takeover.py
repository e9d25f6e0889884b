"""Takes on newer topologies while the node serves: from the file, a peer, or a person.

Shell: `policy.epoch` decides which one wins. Two things follow a topology, one after
the other: duties follow `next` at once, and load what it gives this node; doors go on
by `current` until everything that the new pipelines need is served somewhere.

    offered --valid, newer--> next --its roles are served--> current
       |                       (duties load)                  (doors follow; roles that are
       '-- refused, and the old one stays: log, /stats          gone part after a while)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from msgspec import structs

from mesh.errors import MeshError, SetupError, Unprocessable
from mesh.flow.directory import Membership
from mesh.flow.reach import Peers
from mesh.gossip.member import Facts, Member, Status
from mesh.observe.logs import Log
from mesh.policy.epoch import Edition, Verdict, digest_of, judge, missing
from mesh.settings.topology import Role, Topology
from mesh.wire.messages import Answer, Call

SERVICE = "mesh/topology"
COPY = "topology.toml"  # this node's own copy, in its data folder
LOOK_S = 0.5  # how often the file is looked at: one `stat`
FETCH_MS = 5000  # for one text
RETRY_S = 30.0  # what was refused here is asked for again: a model may have been fetched since
SWITCH_S = 60.0  # a role that still is not served must not hold back all others for ever
TEXT_BYTES_MAX = 1 << 20  # some ten thousand roles

Parse = Callable[[str, str], Topology]


class Answering(Protocol):
    """What is needed of `net.peers.Peers` to answer others."""

    def serve(self, service: str, handler: Any) -> None:
        """Let `handler` answer calls to `service`."""


class Takeover:
    """The topologies of one node.

    Args:
        topology: the one to begin with.
        text: where that came from.
        path: the file that a person edits.
        copy: where this node keeps the newest that it has taken on.
        parse: returns the topology of a text, named for messages, or raises `SetupError`.
        lacks: returns, a line each, what a topology asks of this node and is not here.
        membership: who is there, and what they have.
        peers: asks them.
        log: for what a person should know.
        finish_s: how long roles that are gone are still served, for what is under way.
        changed: called when `next` or `current` is another.
        clock: monotonic seconds.

    Attributes:
        current: what doors follow.
        next: what duties follow; the same, unless a change is under way.
        text: of `next`.
    """

    def __init__(
        self,
        topology: Topology,
        text: str,
        *,
        path: Path,
        copy: Path,
        parse: Parse,
        lacks: Callable[[Topology], list[str]],
        membership: Membership,
        peers: Peers,
        log: Log,
        finish_s: float,
        changed: Callable[[], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.current = self.next = topology
        self.text = self.current_text = text
        self._path, self._copy = path, copy
        self._parse, self._lacks = parse, lacks
        self._membership, self._peers = membership, peers
        self._log, self._finish_s, self._changed, self._clock = log, finish_s, changed, clock
        self._edition = edition_of(topology, text)
        self._stamp = _stamp(path)
        self._since_s = 0.0
        self._parting: dict[str, tuple[Role, float]] = {}
        self._routable = self._duty = topology
        self._refusals: dict[tuple[int, int], float] = {}
        self._last: dict[str, Any] = {}
        self._taken = self._refused = 0

    # ------------------------------------------------------------------ what others follow

    @property
    def digest(self) -> int:
        """Which text of its epoch `next` is."""
        return self._edition.digest

    def routable(self) -> Topology:
        """Return `current` with the roles that requests of before may still need."""
        return self._routable

    def duty(self) -> Topology:
        """Return `next` with what must still be served beside it."""
        return self._duty

    def _settle(self) -> None:
        """Work out both anew; requests ask for them, so not each time."""
        parting = (*self._parting,)
        self._routable = self._with(self.current, parting)
        self._duty = self._with(self.next, (*parting, *self.current.roles))

    def _with(self, base: Topology, names: tuple[str, ...]) -> Topology:
        known = self.current.roles | {name: role for name, (role, _) in self._parting.items()}
        more = {name: known[name] for name in names if name not in base.roles}
        if not more:
            return base
        models = {**self.current.models, **base.models}
        return structs.replace(base, roles={**base.roles, **more}, models=models)

    def statistics(self) -> dict[str, Any]:
        """Return the epochs, and the last refusal with its reason."""
        waits = self._missing() if self.next is not self.current else ()
        return {
            "epoch": self.current.mesh.epoch,
            "next_epoch": self.next.mesh.epoch,
            "waits_for": list(waits),
            "parting": sorted(self._parting),
            "taken": self._taken,
            "refusals": self._refused,
            "refused": self._last,
        }

    # ------------------------------------------------------------------ life

    def serve(self, peers: Answering) -> None:
        """Answer peers that ask for the text."""
        peers.serve(SERVICE, self._answer)

    async def run(self) -> None:
        """Look at the file and at the others until cancelled."""
        while True:
            version = self._membership.version
            await self._look_at_file()
            await self._ask_newer()
            self._go_on()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._membership.wait_change(version)

    async def offer(self, text: str, origin: str, *, is_peer: bool = False) -> bool:
        """Take on a text, if it is newer; return whether it is.

        Raises:
            Unprocessable: with every reason. The old one stays.
        """
        try:
            verdict, topology = await self._judged(text, origin, is_peer)
        except SetupError as error:
            self._refuse(error, origin, digest_of(text))
            raise Unprocessable("; ".join(error.problems)) from None
        if verdict is not Verdict.TAKE:
            return False
        self._take(topology, text, origin)
        return True

    async def _judged(self, text: str, origin: str, is_peer: bool) -> tuple[Verdict, Topology]:
        size = len(text.encode())
        if size > TEXT_BYTES_MAX:
            raise SetupError(f"{origin}: expected at most {TEXT_BYTES_MAX} bytes, found {size}")
        # In a thread: it may import the libraries of a role that is new here.
        topology = await asyncio.to_thread(self._parse, text, origin)
        verdict = judge(self._edition, edition_of(topology, text), is_peer=is_peer)
        epoch = self.next.mesh.epoch
        if verdict is Verdict.FOREIGN:
            own = self.next.mesh.name
            raise SetupError(f"{origin}: mesh.name: expected {own!r}, found another mesh's name")
        if verdict is Verdict.RIVAL:
            raise SetupError(
                f"{origin}: mesh.epoch: expected more than {epoch}, found {epoch} with another text"
            )
        if verdict is Verdict.OLDER and not is_peer:
            found = topology.mesh.epoch
            raise SetupError(f"{origin}: mesh.epoch: expected more than {epoch}, found {found}")
        if verdict is Verdict.TAKE:
            problems = await asyncio.to_thread(self._lacks, topology)
            if problems:
                raise SetupError(*problems)
        return verdict, topology

    # ------------------------------------------------------------------ going on

    def _take(self, topology: Topology, text: str, origin: str) -> None:
        # Where a change is under way already, doors skip it: they go on by what is served.
        self.next, self.text = topology, text
        self._edition = edition_of(topology, text)
        self._settle()
        self._since_s = self._clock()
        self._taken += 1
        self._log.info("topology.taken", epoch=topology.mesh.epoch, origin=origin)
        self._save(text)
        self._changed()
        self._go_on()

    def _go_on(self) -> None:
        """Let doors follow when they can, and roles part when their time is over."""
        now_s = self._clock()
        over = [name for name, (_, until_s) in self._parting.items() if now_s >= until_s]
        for name in over:
            del self._parting[name]
        if over:
            self._settle()
        if self.next is not self.current:
            waits = self._missing()
            if waits and now_s - self._since_s < SWITCH_S:
                return
            if waits:
                self._log.warning("topology.switched_without", roles=list(waits))
            self._switch()
            self._changed()
        elif over:
            self._changed()

    def _switch(self) -> None:
        until_s = self._clock() + self._finish_s
        for name, role in self.current.roles.items():
            if name not in self.next.roles:
                self._parting[name] = (role, until_s)
        for name in self.next.roles:
            self._parting.pop(name, None)
        self.current, self.current_text = self.next, self.text
        self._settle()
        self._log.info("topology.followed", epoch=self.current.mesh.epoch)

    def _missing(self) -> tuple[str, ...]:
        served = {role for facts in self._live() for role in facts.roles}
        before = {role for role in _needed(self.current) if role not in served}
        return missing(_needed(self.next), served, before)

    def _live(self) -> list[Facts]:
        return [m.facts for m in self._membership.members if m.status <= Status.SUSPECT]

    # ------------------------------------------------------------------ where they come from

    async def _look_at_file(self) -> None:
        stamp = _stamp(self._path)
        if stamp is None or stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            self._refuse(SetupError(f"{self._path}: {error}"), str(self._path), 0)
            return
        with contextlib.suppress(Unprocessable):  # noted already, in log and /stats
            await self.offer(text, str(self._path))

    async def _ask_newer(self) -> None:
        newer = [
            member
            for member in self._membership.members
            if member.status is Status.ALIVE
            and _precedence(member) > self._edition.precedence
            and self._refusals.get(_precedence(member), 0.0) <= self._clock()
        ]
        if not newer:
            return
        best = max(newer, key=_precedence)
        call = Call(to=SERVICE, fields={}, deadline_ms=FETCH_MS)
        try:
            reached = await self._peers.call(best.address, call)
            text = reached.answer.fields.get("text")
            if isinstance(text, str):
                await self.offer(text, f"node {best.facts.name}", is_peer=True)
        except Unprocessable:
            self._refusals[_precedence(best)] = self._clock() + RETRY_S
        except MeshError as error:
            self._log.debug("topology.not_fetched", node=best.facts.name, reason=str(error))

    async def _answer(self, call: Call, reply: object) -> Answer:
        return Answer({"text": self.text})

    def _refuse(self, error: SetupError, origin: str, digest: int) -> None:
        refusal = {"origin": origin, "digest": digest, "reasons": list(error.problems)}
        if refusal != self._last:
            self._refused += 1
            self._last = refusal
            self._log.warning("topology.refused", origin=origin, reasons=list(error.problems))

    def _save(self, text: str) -> None:
        """Keep a copy, so that a restart begins with the newest."""
        part = self._copy.with_suffix(".part")
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(self._copy)
        except OSError as error:  # a full disk must not keep the mesh from changing
            self._log.warning("topology.not_kept", path=str(self._copy), reason=str(error))


def newest(
    topology: Topology, text: str, copy: Path, parse: Parse, log: Log
) -> tuple[Topology, str]:
    """Return what to begin with: the file's topology, or the copy if its epoch is higher."""
    try:
        kept_text = copy.read_text(encoding="utf-8")
        kept = parse(kept_text, str(copy))
    except FileNotFoundError:
        return topology, text
    except (OSError, UnicodeDecodeError, SetupError) as error:
        log.warning("topology.copy_unusable", path=str(copy), reason=str(error))
        return topology, text
    if kept.mesh.name != topology.mesh.name or kept.mesh.epoch <= topology.mesh.epoch:
        return topology, text
    log.warning("topology.copy_is_newer", path=str(copy), epoch=kept.mesh.epoch)
    return kept, kept_text


def edition_of(topology: Topology, text: str) -> Edition:
    """Return what `policy.epoch` compares."""
    return Edition(topology.mesh.name, topology.mesh.epoch, digest_of(text))


def _needed(topology: Topology) -> set[str]:
    return {stage.role for line in topology.pipelines.values() for stage in line.stages}


def _precedence(member: Member) -> tuple[int, int]:
    return (member.facts.topology_epoch, member.facts.topology_digest)


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file does, None while there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size)
