"""Collects the docstrings of Python's standard library as documents.

Shell: imports the library's public modules and reads what they say of themselves.

Rules that decide how well questions find them:
- An object appears once, under the shortest of its public names; other names are aliases.
- An object without a docstring of its own takes an inherited one, or what the docstring
  of its class or module says of it.
- Modules that show windows, talk, test, or are about to leave the library stay out, and
  so do those that only some machines have: the same Python gives the same documents.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

SKIPPED = frozenset(
    {
        # They act when imported, or are not a library.
        *("antigravity", "this", "idlelib", "turtledemo", "test", "pydoc_data", "lib2to3"),
        *("ensurepip", "venv", "nturl2path", "sre_compile", "sre_constants", "sre_parse"),
        # Only some machines have them.
        *("tkinter", "turtle", "curses", "readline", "msilib", "winreg", "winsound", "nt"),
        *("ossaudiodev", "nis", "crypt", "spwd", "msvcrt", "_winapi", "dbm.gnu", "dbm.ndbm"),
        *("asyncio.windows_events", "asyncio.windows_utils", "ctypes.wintypes"),
        *("ctypes.macholib", "multiprocessing.popen_spawn_win32", "encodings.mbcs"),
        # Known by a better name.
        *("posix", "posixpath", "ntpath", "genericpath", "opcode", "pyexpat", "sre_parse"),
        # Left the library in 3.12 and 3.13.
        *("aifc", "asynchat", "asyncore", "audioop", "cgi", "cgitb", "chunk", "distutils"),
        *("imghdr", "imp", "mailcap", "nntplib", "pipes", "smtpd", "sndhdr", "sunau"),
        *("telnetlib", "uu", "xdrlib"),
    }
)
WITHOUT_PARTS = ("encodings",)  # packages whose parts say nothing: 120 times the same codec
EXTRA = ("os.path", "collections.abc")  # modules that no package lists
BARE = "builtins"  # its names stand alone: `open`, `str.strip`
FIELD_DOC = "Alias for field number"  # of named tuples: says nothing
MENTION_LINES_MAX = 8  # of a container's docstring about one of its names

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # in defaults such as <object object at 0x…>

Kind = str  # "module", "class", "function", "method", "property", "object"


@dataclass(slots=True)
class Entry:
    """One object of the library."""

    name: str
    kind: Kind
    doc: str
    signature: str = ""
    aliases: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Found:
    """An object under one of its names, with the docstrings of what it is in."""

    name: str
    kind: Kind
    value: Any
    around: tuple[str, ...] = ()


def collect() -> list[Entry]:
    """Return all documents, sorted by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated modules warn when imported
        found = [each for name in module_names() for each in _of_module(name)]
        return sorted(_entries(found), key=lambda entry: entry.name)


def module_names() -> list[str]:
    """Return the names of the modules that are read, sorted."""
    names: set[str] = set(EXTRA)
    for top in sorted(sys.stdlib_module_names):
        if not top.startswith("_") and top not in SKIPPED:
            names |= set(_with_parts(top))
    return sorted(names)


def _with_parts(name: str) -> Iterator[str]:
    module = _import(name)
    if module is None:
        return
    yield name
    if name in WITHOUT_PARTS:
        return
    for part in pkgutil.iter_modules(getattr(module, "__path__", ())):
        inner = f"{name}.{part.name}"
        if not part.name.startswith("_") and part.name not in SKIPPED and inner not in SKIPPED:
            yield from _with_parts(inner)


def _import(name: str) -> types.ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:  # not built on this machine
        return None


def _of_module(name: str) -> Iterator[_Found]:
    module = _import(name)
    if module is None:
        return
    prefix = "" if name == BARE else f"{name}."
    doc = inspect.getdoc(module) or ""
    yield _Found(name, "module", module)
    for short in _public_names(module):
        value = getattr(module, short, None)
        if inspect.isclass(value):
            yield from _of_class(prefix + short, value, doc)
        elif callable(value) and not isinstance(value, types.ModuleType):
            yield _Found(prefix + short, "function", value, (doc,))


def _public_names(module: types.ModuleType) -> list[str]:
    """Return `__all__`, or else the public names that were defined here."""
    stated = getattr(module, "__all__", None)
    if stated is not None:
        return sorted(set(stated))
    if module.__name__ == BARE:
        return sorted(name for name in vars(module) if not name.startswith("_"))
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and _is_from(value, module.__name__)
    )


def _is_from(value: Any, module: str) -> bool:
    home = getattr(value, "__module__", None)
    return home in (module, f"_{module}", None) and not isinstance(value, types.ModuleType)


def _of_class(name: str, value: type, module_doc: str) -> Iterator[_Found]:
    doc = vars(value).get("__doc__")
    around = (doc if isinstance(doc, str) else "", module_doc)
    yield _Found(name, "class", value, (module_doc,))
    for short, raw in sorted(vars(value).items()):
        if short.startswith("_"):
            continue
        if isinstance(raw, property | types.GetSetDescriptorType | types.MemberDescriptorType):
            yield _Found(f"{name}.{short}", "property", raw, around)
        elif inspect.isroutine(raw) or isinstance(raw, classmethod | staticmethod):
            yield _Found(f"{name}.{short}", "method", getattr(value, short), around)


def _entries(found: list[_Found]) -> Iterator[Entry]:
    """Join the names of each object under the shortest, and write its document."""
    groups: dict[int, list[_Found]] = {}
    for each in found:
        groups.setdefault(id(_self(each.value)), []).append(each)
    for group in groups.values():
        group.sort(key=_preference)
        best = group[0]
        doc = _doc(best)
        if doc:
            others = sorted({each.name for each in group[1:]} - {best.name})
            yield Entry(best.name, best.kind, doc, _signature(best), others)


def _self(value: Any) -> Any:
    """Return what a bound method shares with its function: `random.shuffle` is a method."""
    return getattr(value, "__func__", value)


def _preference(found: _Found) -> tuple[int, bool, str]:
    own = getattr(found.value, "__qualname__", None) or getattr(found.value, "__name__", "")
    own_name = f"{getattr(found.value, '__module__', '')}.{own}"
    return found.name.count("."), not f".{own_name}".endswith(f".{found.name}"), found.name


def _doc(found: _Found) -> str:
    doc = inspect.getdoc(found.value) or ""
    if doc.startswith(FIELD_DOC) or (found.kind == "class" and doc == inspect.getdoc(object)):
        doc = ""
    if found.kind == "module":
        return doc
    if found.kind == "class" and (extra := _own_init_doc(found.value)):
        doc = f"{doc}\n\n{extra}"
    if len(doc.split()) < 3:  # "Undocumented" and the like
        doc = "\n".join(part for part in (doc, _mentions(found)) if part)
    return doc.strip()


def _own_init_doc(value: type) -> str:
    init = vars(value).get("__init__")
    doc = inspect.getdoc(init) if inspect.isfunction(init) else ""
    return "" if not doc or doc == inspect.getdoc(object.__init__) else doc


def _mentions(found: _Found) -> str:
    """Return what the docstrings around an object say of its name."""
    short = found.name.rpartition(".")[2]
    pattern = re.compile(rf"(?<![\w.]){re.escape(short)}\b(\(| --|:| - )")
    for doc in found.around:
        lines = doc.splitlines()
        for at, line in enumerate(lines):
            if pattern.search(line):
                return "\n".join(_paragraph(lines[at : at + MENTION_LINES_MAX]))
    return ""


def _paragraph(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if not line.strip():
            return
        yield line.strip()


def _signature(found: _Found) -> str:
    if found.kind in ("module", "property"):
        return ""
    try:
        signature = str(inspect.signature(found.value))
    except (TypeError, ValueError):  # many built-in functions have none
        return ""
    return _ADDRESS.sub("", signature).replace(repr(sys.executable), "sys.executable")
