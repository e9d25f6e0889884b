"""Collects what is wrong with the settings, so that a person sees all of it at once.

Pure. Every check of this package adds to one `Report`; at the end it is raised as
one `SetupError`, or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from mesh.errors import SetupError
from mesh.settings.schema import SECRETS

FOUND_CHARS_MAX = 80  # of a value in a message; enough to recognise it


@dataclass(frozen=True, slots=True)
class Source:
    """One place that settings come from: a file, the environment, the command line."""

    name: str
    text: str = ""  # of a file, to find lines in

    def place(self, key: str) -> str:
        """Return "file:line" of a dotted key or of its nearest parent, else just the name."""
        parts = key.split(".")
        for length in range(len(parts), 0, -1):
            line = _line(self.text, parts[:length])
            if line:
                return f"{self.name}:{line}"
        return self.name


@dataclass(slots=True)
class Report:
    """Problems so far, in the order in which they were found."""

    problems: list[str] = field(default_factory=list)

    def add(self, source: Source, key: str, expected: str, found: str, hint: str = "") -> None:
        """Note one problem: where, which key, what was expected, what was found, what to do."""
        text = f"expected {expected}, found {found}"
        self.note(source, key, f"{text}; {hint}" if hint else text)

    def note(self, source: Source, key: str, text: str) -> None:
        """Note one problem in free words."""
        self.problems.append(f"{source.place(key)}: {key or 'file'}: {text}")

    def raise_any(self) -> None:
        """Raise everything as one error, or return if there is nothing."""
        if self.problems:
            raise SetupError(*self.problems)


def shown(key: str, value: Any) -> str:
    """Return `value` for a message, cut short; secrets are masked."""
    if key in SECRETS:
        return "(hidden)" if value else repr(value)
    try:
        text = repr(value)
    except ValueError:  # Python writes out no number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= FOUND_CHARS_MAX else text[: FOUND_CHARS_MAX - 1] + "…"


def one_of(names: Iterable[str]) -> str:
    """Return a list of names for a message."""
    listed = sorted(names)
    return "one of " + ", ".join(listed) if listed else "none (there are none)"


def meant(name: str, known: Iterable[str]) -> str:
    """Return `did you mean "x"?` for the nearest known name, or ""."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f'did you mean "{close[0]}"?' if close else ""


def _line(text: str, parts: list[str]) -> int:
    """Return the line of a key, 0 if it is not found.

    Looks for `key =` below the header of its table, and for headers. Arrays of
    tables are counted: `stages.2` is the third `[[…stages]]`. Inline tables are
    found by their own key, which is near enough for a message.
    """
    table: list[str] = []
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[(\[?)\s*([^\[\]]+?)\s*\]", line)
        if header:
            name = header.group(2).replace('"', "")
            if header.group(1):
                counts[name] = counts.get(name, -1) + 1
                name = f"{name}.{counts[name]}"
            table = name.split(".")
            if table == parts:
                return number
            continue
        pair = re.match(r'\s*"?([A-Za-z0-9_.-]+)"?\s*=', line)
        if pair and table + pair.group(1).split(".") == parts:
            return number
    return 0
