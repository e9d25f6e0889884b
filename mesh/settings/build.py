"""Turns a read TOML tree into frozen settings, and reports every value that does not fit.

Pure. msgspec stops at the first fault; a person with five typing errors should
not have to start five times. So tables are walked here, and msgspec judges only
their leaves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo, fields

from mesh.settings.report import Report, Source, meant, one_of, shown

WHOLE_BITS_MAX = 63  # TOML's own; a larger number fits no message between nodes
WRONG: Any = object()  # what a faulty value becomes; never handed out in a complete tree
SourceOf = Callable[[str], Source]


def build(kind: Any, raw: Any, key: str, source_of: SourceOf, report: Report) -> Any:
    """Return `raw` as `kind`, or `WRONG` after at least one note in `report`.

    Args:
        kind: a msgspec struct, `dict[str, struct]`, `tuple[struct, ...]`, or a leaf type.
        raw: what TOML gave.
        key: where `raw` stands, dotted; "" for the whole file.
        source_of: tells the source of a dotted key.
        report: takes the notes.
    """
    item = (get_args(kind) or (None,))[-1 if get_origin(kind) is dict else 0]
    if is_struct(kind):
        return _struct(kind, raw, key, source_of, report)
    if get_origin(kind) is dict and is_struct(item):
        return _mapping(kind, raw, key, source_of, report)
    if get_origin(kind) is tuple and is_struct(item):
        return _sequence(item, raw, key, source_of, report)
    if kind is Path:
        path = build(str, raw, key, source_of, report)
        return path if path is WRONG else Path(path)
    if not _is_sane(raw):
        report.add(source_of(key), key, f"finite numbers of {WHOLE_BITS_MAX} bits", shown(key, raw))
        return WRONG
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        report.add(source_of(key), key, _expected(kind, error), shown(key, raw))
        return WRONG


def is_struct(kind: Any) -> bool:
    """Return whether `kind` is a table of settings."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def join(key: str, name: str) -> str:
    """Return the dotted key of `name` below `key`."""
    return f"{key}.{name}" if key else name


def field_of(kind: Any, key: str) -> FieldInfo | None:
    """Return the field of the struct `kind` at a dotted key, if there is one."""
    first, _, rest = key.partition(".")
    info = next((info for info in fields(kind) if info.name == first), None)
    if info is None or not rest:
        return info
    return field_of(info.type, rest) if is_struct(info.type) else None


def _struct(kind: Any, raw: Any, key: str, source_of: SourceOf, report: Report) -> Any:
    if not _is_table(raw, key, source_of, report):
        return WRONG
    known = {info.name: info for info in fields(kind)}
    spare = {name: value for name, value in raw.items() if name not in known}
    values = {
        name: build(info.type, raw[name], join(key, name), source_of, report)
        for name, info in known.items()
        if name in raw
    }
    for name, info in known.items():
        if info.required and name not in raw:
            place = join(key, name)
            report.add(source_of(place), place, f"a value ({_words(info.type)})", "nothing")
            values[name] = WRONG
    if spare and not kind.__struct_config__.forbid_unknown_fields:
        values["options"] = {**values.get("options", {}), **spare}
    elif spare:
        for name in spare:
            place = join(key, name)
            report.add(source_of(place), place, one_of(known), "an unknown key", meant(name, known))
        return WRONG
    return WRONG if any(value is WRONG for value in values.values()) else kind(**values)


def _mapping(kind: Any, raw: Any, key: str, source_of: SourceOf, report: Report) -> Any:
    if not _is_table(raw, key, source_of, report):
        return WRONG
    name_type, item = get_args(kind)
    built = {}
    for name, value in raw.items():
        place = join(key, name)
        try:
            msgspec.convert(name, name_type)
        except msgspec.ValidationError:
            report.add(source_of(place), place, "a name of letters, digits, _ . -", repr(name))
        built[name] = build(item, value, place, source_of, report)
    return WRONG if any(value is WRONG for value in built.values()) else built


def _sequence(item: Any, raw: Any, key: str, source_of: SourceOf, report: Report) -> Any:
    if not isinstance(raw, list):
        report.add(source_of(key), key, "a list of tables", shown(key, raw))
        return WRONG
    built = tuple(
        build(item, value, join(key, str(index)), source_of, report)
        for index, value in enumerate(raw)
    )
    return WRONG if any(value is WRONG for value in built) else built


def _is_sane(raw: Any) -> bool:
    """Return whether every number in `raw` is one; Python's parser takes any size, inf and nan."""
    if isinstance(raw, Mapping):
        return all(_is_sane(value) for value in raw.values())
    if isinstance(raw, list):
        return all(_is_sane(value) for value in raw)
    if isinstance(raw, int):
        return raw.bit_length() <= WHOLE_BITS_MAX
    return not isinstance(raw, float) or isfinite(raw)


def _is_table(raw: Any, key: str, source_of: SourceOf, report: Report) -> bool:
    if isinstance(raw, Mapping):
        return True
    report.add(source_of(key), key, "a table", shown(key, raw))
    return False


def _expected(kind: Any, error: msgspec.ValidationError) -> str:
    """Return what msgspec wanted, in words."""
    base = get_args(kind)[0] if hasattr(kind, "__metadata__") else kind
    if repr(base).startswith("typing.Literal"):
        return one_of(str(value) for value in get_args(base))
    text = str(error)
    pattern = re.search(r"matching regex '(.*)'", text)
    if pattern and pattern.group(1).startswith("^(wheel"):
        return '"wheel:…", "hf:…" or "path:…"'
    if pattern and pattern.group(1).startswith("^[A-Za-z0-9]["):
        return "a name of letters, digits, _ . -"
    wanted = re.match(r"Expected (.*?)(, got .*)?( - at .*)?$", text)
    return wanted.group(1).replace("`", "") if wanted else _words(base)


def _words(kind: Any) -> str:
    """Return a type in words."""
    if is_struct(kind):
        return "table"
    base = get_args(kind)[0] if hasattr(kind, "__metadata__") else kind
    return getattr(base, "__name__", str(base)) if not get_origin(base) else str(base)
