"""Turns tokens into text as they come: whole characters only, and never past a stop string.

Pure, given a function that decodes tokens. A character may be spread over several tokens,
and a stop string too; what could still become either is held back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

BROKEN = "\ufffd"  # what decoders put for bytes that are not yet, or never, a character
HELD_MAX = 8  # tokens; a UTF-8 character has 4 bytes, so more are broken for good


class Detokenizer:
    """Text of a growing list of tokens, piece by piece; the pieces join to the decoded whole."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []  # tokens that the next piece is decoded with
        self._shown = 0  # of them, how many were shown already

    def push(self, token: int) -> str:
        """Return the text that this token completes, perhaps nothing."""
        self._window.append(token)
        before = self._decode(self._window[: self._shown])
        after = self._decode(self._window)
        held = len(self._window) - self._shown
        if len(after) <= len(before) or (after.endswith(BROKEN) and held < HELD_MAX):
            return ""
        self._window = self._window[self._shown :]
        self._shown = len(self._window)
        return after[len(before) :]

    def flush(self) -> str:
        """Return what is held back: bytes that never became a character."""
        before = self._decode(self._window[: self._shown])
        after = self._decode(self._window)
        self._window, self._shown = [], 0
        return after[len(before) :]


class StopFinder:
    """Cuts text at the first of some strings, which may come in pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.is_found = False

    def push(self, text: str) -> str:
        """Return what may be shown now; nothing once a stop string was found."""
        if self.is_found or not self._stops:
            return "" if self.is_found else text
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.is_found = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        safe = len(self._held) - self._partial()
        shown, self._held = self._held[:safe], self._held[safe:]
        return shown

    def flush(self) -> str:
        """Return what was held back in case a stop string came."""
        shown, self._held = self._held, ""
        return shown

    def _partial(self) -> int:
        """Return how many characters at the end could begin a stop string."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:size]):
                    longest = size
                    break
        return longest
