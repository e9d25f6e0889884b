"""Which class a role's kind names: a built-in one, or a user's own.

Shell: imports the module of the class, and only that one: a node pays for the
libraries of the roles that it has, no others.

    kind = "embed"                      # a built-in kind
    kind = "shop.roles:PriceOf"         # class PriceOf of module shop.roles
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from typing import Any

from mesh.errors import SetupError
from mesh.roles.base import Role, StreamRole

BUILT_IN: Mapping[str, str] = {
    "classify": "mesh.roles.classify:Classify",
    "columns": "mesh.roles.columns:Columns",
    "embed": "mesh.roles.embed:Embed",
    "generate": "mesh.roles.generate:Generate",
    "rerank": "mesh.roles.rerank:Rerank",
    "retrieve": "mesh.roles.retrieve:Retrieve",
    "tensor": "mesh.roles.tensor:Tensor",
}


def find(kind: str) -> type[Role]:
    """Return the class of a kind.

    Raises:
        SetupError: no such kind, module or class, or the class is no `Role`.
    """
    path = BUILT_IN.get(kind, kind)
    module_name, colon, class_name = path.partition(":")
    if not (colon and module_name and class_name):
        raise SetupError(_unknown(kind))
    found = getattr(_module(kind, module_name), class_name, None)
    if found is None:
        raise SetupError(f"kind {kind!r}: module {module_name!r} has no class {class_name!r}")
    if not (isinstance(found, type) and issubclass(found, Role)):
        raise SetupError(f"kind {kind!r}: {class_name!r} is no subclass of mesh.roles.base.Role")
    return found


@cache
def is_idempotent(kind: str) -> bool:
    """Whether items of this kind may be run twice; a class that is not here counts as no."""
    if kind in BUILT_IN:
        return True  # a test compares this with the classes, which would cost their imports here
    try:
        return find(kind).idempotent
    except SetupError:
        return False


@cache
def is_streaming(kind: str) -> bool:
    """Whether items of this kind are long work, answered piece by piece: it is never hedged."""
    if kind in BUILT_IN:
        return kind in ("generate", "columns")
    try:
        return issubclass(find(kind), StreamRole)
    except SetupError:
        return False


@cache
def is_resumable(kind: str) -> bool:
    """Whether a broken stream of this kind can go on at another node."""
    if kind in BUILT_IN and not is_streaming(kind):
        return False  # without its import
    try:
        found = find(kind)
    except SetupError:
        return False
    return issubclass(found, StreamRole) and found.resumable


def options(role: str, kind: type[Role], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the role's options with its defaults.

    Raises:
        SetupError: an option that the class does not name, one line each.
    """
    unknown = [key for key in given if key not in kind.options]
    if unknown:
        raise SetupError(*(_unknown_option(role, kind, key) for key in unknown))
    return {**kind.options, **given}


def _module(kind: str, name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise SetupError(f"kind {kind!r}: there is no module {missing!r}") from error
        raise SetupError(f"kind {kind!r}: {name!r} needs module {missing!r}") from error
    except Exception as error:
        # A user's module is foreign code: whatever stops its import is a fault of the set-up.
        what = f"{type(error).__name__}: {error}"
        raise SetupError(f"kind {kind!r}: module {name!r} cannot be imported: {what}") from error


def _unknown(kind: str) -> str:
    close = get_close_matches(kind, BUILT_IN, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    known = ", ".join(BUILT_IN)
    return f"kind: expected one of {known} or 'package.module:Class', found {kind!r}{hint}"


def _unknown_option(role: str, kind: type[Role], key: str) -> str:
    known = ", ".join(kind.options) or "none"
    close = get_close_matches(key, kind.options, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"roles.{role}: unknown key {key!r}; {kind.__name__} knows {known}{hint}"
