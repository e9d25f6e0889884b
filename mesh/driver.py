"""Runs a machine: waits for its next event or alarm, and performs its actions.

Shell: the only loop of its kind. It is for alarms and control messages; frames,
tokens and batch items call their machines directly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mesh.machine import TICK, Machine, Tick

Event = TypeVar("Event")
Action = TypeVar("Action")


async def drive(
    machine: Machine[Event, Action],
    inbox: asyncio.Queue[Event],
    perform: Callable[[Action], Awaitable[None]],
) -> None:
    """Run `machine` until cancelled.

    Actions are performed one after another, so `perform` must hand slow work to
    a task of its own; a raise from `perform` stops the machine on purpose.
    """
    clock = asyncio.get_running_loop().time
    while True:
        alarm_s = machine.wakeup_s()
        event: Event | Tick
        try:
            async with asyncio.timeout_at(alarm_s):
                event, now_s = await inbox.get(), clock()
        except TimeoutError:
            assert alarm_s is not None
            # asyncio may fire a timer one clock resolution early; a tick never is.
            event, now_s = TICK, max(clock(), alarm_s)
        for action in machine.handle(event, now_s):
            await perform(action)
        if event is TICK:
            next_s = machine.wakeup_s()
            assert next_s is None or next_s > now_s, f"{machine!r} would spin"
