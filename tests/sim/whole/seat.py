"""What a simulated process has of its host: a place in the mesh, and one file.

Shell. Stands in for `net.membership` and `pathlib.Path`, as far as the flow uses them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from mesh.gossip.member import Facts, Member

if TYPE_CHECKING:
    from tests.sim.whole.town import Town
    from tests.sim.world import Host


class Seat:
    """This process's place in the mesh: the host's gossip machine, as `net.membership` shows it."""

    def __init__(self, world: Town, host: Host) -> None:
        assert host.machine is not None
        self._world, self._host, self._machine = world, host, host.machine
        self._changed = asyncio.Event()
        self._seen = -1
        self.changed_s = world.now_s
        self.gone = asyncio.Event()

    @property
    def members(self) -> tuple[Member, ...]:
        return self._machine.members()

    @property
    def me(self) -> Member:
        return self._machine.me

    @property
    def version(self) -> int:
        return self._machine.version

    async def wait_change(self, version: int) -> int:
        while self._machine.version == version:
            await self._changed.wait()
        return self._machine.version

    @property
    def has_news(self) -> bool:
        """Whether something changed since the last time that this was asked."""
        before, self._seen = self._seen, self._machine.version
        return before != self._seen

    def wake(self) -> None:
        """Let those who wait look."""
        self._changed.set()
        self._changed = asyncio.Event()

    def tell(self, facts: Facts) -> None:
        self._world.tell(self._host.name, facts)

    async def leave(self) -> None:
        self._world.leave(self._host.name)
        await self.gone.wait()


class Paper:
    """A file of a simulated host: what `pathlib.Path` is to `flow.takeover`."""

    def __init__(self, kept: dict[str, str], name: str) -> None:
        self._kept, self._name = kept, name

    def read_text(self, **_: Any) -> str:
        """Return the text."""
        if self._name not in self._kept:
            raise FileNotFoundError(self._name)
        return self._kept[self._name]

    def write_text(self, text: str, **_: Any) -> None:
        """Keep a text."""
        self._kept[self._name] = text

    def with_suffix(self, _: str) -> Paper:
        """Return itself: writing is never torn here."""
        return self

    def replace(self, _: Paper) -> None:
        """Nothing is left to do."""

    def stat(self) -> Any:
        """There is nothing for a person to edit: topologies come by `offer`."""
        raise FileNotFoundError(self._name)
