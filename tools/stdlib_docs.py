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
        *("ossaudiodev", "nis", "crypt", "spwd", "msvcrt"),
        # Known by a better name.
        *("posix", "posixpath", "ntpath", "genericpath", "opcode", "pyexpat"),
        # Left the library in 3.12 and 3.13.
        *("aifc", "asynchat", "asyncore", "audioop", "cgi", "cgitb", "chunk", "distutils"),
        *("imghdr", "imp", "mailcap", "nntplib", "pipes", "smtpd", "sndhdr", "sunau"),
        *("telnetlib", "uu", "xdrlib"),
    }
)
PARTS = {
    "collections": ("abc",),
    "concurrent": ("futures",),
    "dbm": ("dumb",),
    "email": (
        *("charset", "contentmanager", "encoders", "errors", "generator", "header"),
        *("headerregistry", "iterators", "message", "parser", "policy", "utils"),
        *("mime.application", "mime.audio", "mime.base", "mime.image", "mime.message"),
        *("mime.multipart", "mime.nonmultipart", "mime.text"),
    ),
    "html": ("entities", "parser"),
    "http": ("client", "cookiejar", "cookies", "server"),
    "importlib": ("abc", "machinery", "metadata", "resources", "util"),
    "logging": ("config", "handlers"),
    "multiprocessing": ("connection", "managers", "pool", "shared_memory", "sharedctypes"),
    "os": ("path",),
    "unittest": ("mock",),
    "urllib": ("error", "parse", "request", "response", "robotparser"),
    "wsgiref": ("handlers", "headers", "simple_server", "util", "validate"),
    "xml": (
        *("dom", "dom.minidom", "dom.pulldom", "etree.ElementTree", "parsers.expat"),
        *("sax", "sax.handler", "sax.saxutils", "sax.xmlreader"),
    ),
    "xmlrpc": ("client", "server"),
}
"""Parts of packages that the library's reference has a page for; others are internal."""

BARE = "builtins"  # its names stand alone: `open`, `str.strip`
FIELD_DOC = "Alias for field number"  # of named tuples: says nothing
WORDS_MIN = 3  # of a docstring that says something; "Undocumented" does not
SUMMARY_CHARS_MAX = 200  # longer first sentences are lists of things
MENTION_LINES_MAX = 8  # of a container's docstring about one of its names

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # in defaults such as <object object at 0x…>

_HEAD = re.compile(r"^[\w.]+\([^)]*\)\s*(->|-->)?.*?\n\n")  # as C docstrings begin
_SENTENCE_END = re.compile(r"\n\s*\n|(?<=[.!?])\s")

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


def summary_of(entry: Entry) -> str:
    """Return the first sentence of a docstring, without the signature that may precede it."""
    doc = entry.doc if entry.kind == "module" else _HEAD.sub("", entry.doc) or entry.doc
    sentence = _SENTENCE_END.split(doc.strip(), maxsplit=1)[0]
    return " ".join(sentence.split())[:SUMMARY_CHARS_MAX]


def module_names() -> list[str]:
    """Return the names of the modules that are read, sorted."""
    tops = {name for name in sys.stdlib_module_names if name[0] != "_"} - SKIPPED
    parts = {f"{top}.{part}" for top in tops for part in PARTS.get(top, ())}
    return sorted(tops | parts)


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
    """Return `__all__` or else the public names defined here; of a package, in its parts too."""
    public = {name: value for name, value in vars(module).items() if name[0] != "_"}
    if module.__name__ == BARE:
        return sorted(public)
    stated = set(getattr(module, "__all__", ()))
    homes = {module.__name__, f"_{module.__name__}", None} if not stated else set()
    inside = f"{module.__name__}." if hasattr(module, "__path__") else "\0"
    for name, value in public.items():
        home = getattr(value, "__module__", None)
        is_here = home in homes or str(home).startswith(inside)
        if is_here and not isinstance(value, types.ModuleType):
            stated.add(name)
    return sorted(stated)


def _of_class(name: str, value: type, module_doc: str) -> Iterator[_Found]:
    doc = vars(value).get("__doc__")
    around = (doc if isinstance(doc, str) else "", module_doc)
    yield _Found(name, "class", value, (module_doc,))
    for short, raw in sorted(_members(value).items()):
        if isinstance(raw, property | types.GetSetDescriptorType | types.MemberDescriptorType):
            yield _Found(f"{name}.{short}", "property", raw, around)
        elif inspect.isroutine(raw) or isinstance(raw, classmethod | staticmethod):
            yield _Found(f"{name}.{short}", "method", getattr(value, short), around)


def _members(value: type) -> dict[str, Any]:
    """Return a class's own public members, and those of its private bases."""
    members: dict[str, Any] = {}
    for base in reversed(value.__mro__):
        if base is value or base.__name__.startswith("_"):
            members |= {name: raw for name, raw in vars(base).items() if name[0] != "_"}
    return members


def _entries(found: list[_Found]) -> Iterator[Entry]:
    """Join the names of each object, and objects that share a name and a docstring."""
    same_object: dict[int, list[_Found]] = {}
    for each in found:
        same_object.setdefault(id(_self(each.value)), []).append(each)
    same_words: dict[tuple[str, str], list[_Found]] = {}
    for group in same_object.values():
        best = min(group, key=_preference)
        if doc := _doc(best):
            short = best.name.rpartition(".")[2] if best.kind != "module" else best.name
            same_words.setdefault((short, doc), []).extend(group)
    for (_, doc), group in same_words.items():
        best = min(group, key=_preference)
        aliases = sorted({each.name for each in group} - {best.name})
        yield Entry(best.name, best.kind, doc, _signature(best), aliases)


def _self(value: Any) -> Any:
    """Return what a bound method shares with its function: `random.shuffle` is a method."""
    return getattr(value, "__func__", value)


def _preference(found: _Found) -> tuple[int, bool, int, str]:
    own = getattr(found.value, "__qualname__", None) or getattr(found.value, "__name__", "")
    own_name = f"{getattr(found.value, '__module__', '')}.{own}"
    is_other = not f".{own_name}".endswith(f".{found.name}")
    return found.name.count("."), is_other, len(found.name), found.name


def _doc(found: _Found) -> str:
    doc = _own_doc(found)
    if found.kind == "module":
        return doc
    if found.kind == "class" and (extra := _own_init_doc(found.value)):
        doc = f"{doc}\n\n{extra}"
    if len(doc.split()) < WORDS_MIN:
        doc = "\n".join(part for part in (doc, _mentions(found)) if part)
    if len(doc.split()) < WORDS_MIN and found.kind in ("class", "function"):
        doc = f"{doc}\n{_stand_in(found)}"
    return doc.strip()


def _own_doc(found: _Found) -> str:
    doc = inspect.getdoc(found.value) or ""
    if doc.startswith(FIELD_DOC):
        return ""
    if found.kind == "class" and not vars(found.value).get("__doc__"):
        return ""  # what `getdoc` then finds describes another class
    return doc


def _stand_in(found: _Found) -> str:
    """Return what can be said of an object that nobody described: where it is, what it has."""
    members = _members(found.value) if found.kind == "class" else {}
    if found.kind == "class" and not members:
        return ""  # nodes of a syntax tree, errors: their names say all
    module, _, short = found.name.rpartition(".")
    about = " ".join(_paragraph(found.around[-1].splitlines()))
    parts = [_comment(found.value), f"{short}: {found.kind} of {module or BARE}, {about}"]
    parts.append("Has: " + ", ".join(sorted(members)) if members else "")
    return "\n".join(part for part in parts if part)


def _comment(value: Any) -> str:
    """Return the comment that stands before an object in its source."""
    try:
        comment = inspect.getcomments(value) or ""
    except (OSError, TypeError):  # it is not written in Python
        return ""
    lines = [line.lstrip("# ").strip() for line in comment.splitlines()]
    return "\n".join(line for line in lines if len(line.split()) > 2)


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
