"""Whether an item has the fields that its role takes, each of its type.

Pure. Worked out once per role; checked for every item before it is queued, so
that a batch holds nothing malformed and the caller learns what was expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from mesh.errors import Unprocessable
from mesh.wire.messages import Fields
from mesh.wire.wording import misfit


class Shape:
    """The fields of one role's items.

    Args:
        role: for messages.
        takes: as in `Role.takes`; {} takes anything.
    """

    def __init__(self, role: str, takes: Mapping[str, Any]) -> None:
        self._role = role
        self._types = {name: _classes(kind) for name, kind in takes.items()}
        self._optional = tuple(n for n, classes in self._types.items() if NoneType in classes)
        self._required = tuple(name for name in takes if name not in self._optional)

    def check(self, item: Fields) -> Fields:
        """Return the item; absent optional fields are None, lists for arrays are arrays.

        Raises:
            Unprocessable: a field is missing, unknown or of another type.
        """
        if not self._types:
            return item
        for name, value in item.items():
            classes = self._types.get(name)
            if classes is None:
                raise self._error(f"unknown field {name!r}", self._types)
            if classes and type(value) not in classes and not _is_one(value, classes):
                item = {**item, name: self._convert(name, value, classes)}
        for name in self._required:
            if name not in item:
                raise self._error(f"missing field {name!r}", self._types)
        for name in self._optional:
            if name not in item:
                item = {**item, name: None}
        return item

    def _convert(self, name: str, value: Any, classes: tuple[type, ...]) -> Any:
        """Return a list of numbers as the array that is wanted: JSON has no arrays."""
        if isinstance(value, list) and any(c.__name__ == "ndarray" for c in classes):
            import numpy as np

            try:
                with np.errstate(over="raise"):
                    return np.asarray(value, dtype=np.float32)
            except (ValueError, TypeError, FloatingPointError) as error:
                raise Unprocessable(
                    f"role {self._role!r}: field {name!r} must be an array of numbers of 32 bits",
                    role=self._role,
                ) from error
        raise Unprocessable(
            f"role {self._role!r}: field {name!r} {misfit(classes, value)}",
            role=self._role,
        )

    def _error(self, what: str, known: Mapping[str, Any]) -> Unprocessable:
        names = ", ".join(
            f"{name!r} (optional)" if name in self._optional else repr(name) for name in known
        )
        return Unprocessable(f"role {self._role!r}: {what}; expected {names}", role=self._role)


def _classes(kind: Any) -> tuple[type, ...]:
    """Return the classes that a value may be of; () for any."""
    if kind is Any or kind is object:
        return ()
    if kind is None:
        return (NoneType,)
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        parts = [_classes(part) for part in get_args(kind)]
        if () in parts:
            return ()
        return tuple(dict.fromkeys(c for part in parts for c in part))
    found = origin or kind
    assert isinstance(found, type), f"a role takes classes, not {kind!r}"
    return (found,)


def _is_one(value: Any, classes: tuple[type, ...]) -> bool:
    """Whether a value may stand where one of the classes is expected.

    An int is a fine float; a bool is no number, though Python says so.
    """
    if isinstance(value, bool):
        return bool in classes
    if isinstance(value, int) and float in classes:
        return True
    return isinstance(value, classes)
