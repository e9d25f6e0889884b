"""Roles that need no model: quick, slow, streaming and failing ones, for tests of whole nodes."""

from __future__ import annotations

import asyncio
import time
from typing import ClassVar

from mesh.errors import SetupError
from mesh.roles.base import Piece, Role, StreamRole, Whole


class Shout(Role):
    """Upper case, after a sleep if one is asked for."""

    takes: ClassVar = {"text": str}
    gives = ("text",)
    options: ClassVar = {"sleep_s": 0.0}

    def run(self, batch):
        time.sleep(self.context.options["sleep_s"])
        return [{"text": item["text"].upper()} for item in batch]


class Count(Role):
    """The length of a text, and whether it is long."""

    takes: ClassVar = {"text": str}
    gives = ("count", "is_long")

    def run(self, batch):
        return [{"count": len(i["text"]), "is_long": len(i["text"]) > 10} for i in batch]


class Spell(StreamRole):
    """A text letter by letter; never ends for the text "FOREVER", fails at the text "FAIL"."""

    takes: ClassVar = {"text": str}
    gives = ("spelled",)
    running = 0

    async def stream(self, item, request):
        Spell.running += 1
        try:
            spelled = ""
            for letter in item["text"]:
                spelled += letter + " "
                yield Piece({"spelled": letter + " "})
                await asyncio.sleep(0)
            while item["text"] == "FOREVER":
                await asyncio.sleep(0.005)
                yield Piece({"spelled": "."})
            if item["text"] == "FAIL":
                raise ValueError("cannot go on")
            yield Whole({"spelled": spelled})
        finally:
            Spell.running -= 1


class Unloadable(Role):
    """A role whose model is not there."""

    def load(self):
        raise SetupError("the model is not there; fetch it with: python -m tools.models")


class Flood(StreamRole):
    """Large pieces without end."""

    takes: ClassVar = {"text": str}
    gives = ("spelled",)
    running = 0

    async def stream(self, item, request):
        Flood.running += 1
        try:
            while True:
                yield Piece({"spelled": "x" * 100_000})
                await asyncio.sleep(0)
        finally:
            Flood.running -= 1


class Letters(StreamRole):
    """Gives a text letter by letter, and goes on where another stopped."""

    takes: ClassVar = {"text": str, "resume": list | None}
    resumable = True

    async def stream(self, item, request):
        for letter in item["text"][len(item["resume"] or ()) :]:
            await asyncio.sleep(0.1)
            yield Piece({"text": letter})
        yield Whole({"text": item["text"]})
