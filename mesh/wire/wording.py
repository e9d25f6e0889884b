"""Says in one sentence what is wrong with a value that somebody sent, and where.

Pure. msgspec finds it, in words for programmers: "Expected `int | null`, got `str` - at `$.n`".
A caller reads "n must be a whole number, not a string", at every door.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
    "ndarray": "an array of numbers",
}
_CLASSES = {
    "NoneType": "null",
    "dict": "object",
    "list": "array",
    "tuple": "array",
}
"""What msgspec calls values of these classes; others have the same name there."""
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


def misfit(classes: Iterable[type], value: object) -> str:
    """Return what a value must be, which is of none of these classes."""
    names = [_name(each) for each in classes]
    return f"must be {_joined(names, _name(type(value)))}"


def kind_of(value: object) -> str:
    """Return what a caller knows this value as."""
    return _found(_name(type(value)))


def _told(expected: re.Match[str]) -> str:
    kinds, length, sign, bound, found = expected.groups()
    names = kinds.split(" | ")
    if sign:
        unit = " long" if length else ""
        return f"{_joined(names, '')}, {_BOUNDS[sign]} {bound.removesuffix('.0')}{unit}"
    return _joined(names, found)


def _joined(names: list[str], found: str) -> str:
    # null stands for what is left out.
    names = [name for name in names if name != "null"] or names
    wanted = " or ".join(_TYPES.get(name, name) for name in names)
    if not found:
        return wanted
    if found == "float" and "int" in names:  # as which larger numbers are read, too
        return f"{wanted}, not a fraction or beyond 64 bits"
    return f"{wanted}, not {_found(found)}"


def _name(kind: type) -> str:
    return _CLASSES.get(kind.__name__, kind.__name__)


def _found(name: str) -> str:
    if name in ("int", "float"):
        return "a number"
    return "a boolean" if name == "bool" else _TYPES.get(name, name)
