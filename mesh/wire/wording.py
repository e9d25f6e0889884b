"""Says in one sentence what is wrong with a value that somebody sent, and where.

Pure. msgspec finds it, in words for programmers: "Expected `int | null`, got `str` - at `$.n`".
A caller reads "n must be a whole number, not a string", at every door.
"""

from __future__ import annotations

import re

import msgspec

_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
    "bytes": "bytes in base64",
}
_BOUNDS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
_AT = re.compile(r" - at `\$(.*)`$")
_EXPECTED = re.compile(r"Expected `([^`]*)`(?: (of length )?([<>]=?) (\S+))?(?:, got `([^`]*)`)?")
_MISSING = re.compile(r"Object missing required field `(.*)`")
_ENUM = re.compile(r"Invalid enum value (.*)", re.DOTALL)


def sentence(error: msgspec.ValidationError, whole: str) -> str:
    """Return what is wrong, beginning with where.

    Args:
        error: of msgspec.
        whole: what the value is called in which it stands, where that has a name of its own.
    """
    text = str(error)
    at = _AT.search(text)
    text = text[: at.start()] if at else text
    place = f"{whole}{at[1] if at else ''}".removeprefix(".")
    if missing := _MISSING.fullmatch(text):
        return f"{place}.{missing[1]} is missing".removeprefix(".")
    place = place or "it"
    if wrong := _ENUM.fullmatch(text):
        return f"{place} may not be {wrong[1]}"
    if expected := _EXPECTED.fullmatch(text):
        return f"{place} must be {_told(expected)}"
    return f"{place}: {text.replace('`', '')}"


def _told(expected: re.Match[str]) -> str:
    kinds, length, sign, bound, found = expected.groups()
    # null stands for what is left out.
    names = [kind for kind in kinds.split(" | ") if kind != "null"] or ["null"]
    wanted = " or ".join(_TYPES.get(kind, kind) for kind in names)
    if sign:
        unit = " long" if length else ""
        return f"{wanted}, {_BOUNDS[sign]} {bound.removesuffix('.0')}{unit}"
    if not found:
        return wanted
    is_fraction = found == "float" and "int" in names
    number = "a fraction" if is_fraction else "a number"
    return f"{wanted}, not {number if found in ('int', 'float') else _TYPES.get(found, found)}"
