"""Which version of a role answers a call: by share, and always the same one for a key.

Pure. A version is another role of the topology. Shares are laid end to end on the
unit interval and a key hashes to a point on it, so a version that grows keeps the
keys that it has.

    0 ......... 0.05 ............. 0.25 ................................ 1
    |  v2 0.05  |      v3 0.20     |          the role itself             |
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Protocol


class VersionLike(Protocol):
    """What is needed of `settings.topology.Version`."""

    @property
    def role(self) -> str:
        """Name of the role that answers."""

    @property
    def share(self) -> float:
        """Part of the calls, 0..1."""

    @property
    def shadow(self) -> bool:
        """Whether it is called but not answered from."""


def point_of(role: str, key: bytes) -> float:
    """Return where a key lies, in [0, 1); other roles' splits are independent of this one's."""
    digest = blake2b(key, digest_size=8, person=role.encode()[:16]).digest()
    return int.from_bytes(digest, "big") / 2.0**64


def choose(versions: Mapping[str, VersionLike], point: float) -> str:
    """Return the name of the version that answers at `point`; "" for the role itself."""
    end = 0.0
    for name, version in versions.items():
        if version.shadow:
            continue
        end += version.share
        if point < end:
            return name
    return ""


def shadows(versions: Mapping[str, VersionLike], point: float) -> list[str]:
    """Return the names of the versions that are called beside, each for its own share."""
    return [name for name, version in versions.items() if version.shadow and point < version.share]
