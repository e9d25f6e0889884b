"""Says to whom a node is open that its settings may have forgotten.

Pure. Nothing here is wrong in itself: a door may stand open in a network of one's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from mesh.settings.schema import Node

SECRET_CHARS_LEAST = 16  # whoever hears a sealed packet may try words at leisure


def exposed(node: Node) -> Iterator[str]:
    """Yield what strangers of the network may do, and which setting would keep them out."""
    security = node.security
    if not _is_own(node.listen.http) and not security.api_keys:
        yield f"anyone who reaches {node.listen.http} may ask this mesh: see security.api_keys"
    if not _is_own(node.listen.peer) and not security.secret:
        yield f"anyone who reaches {node.listen.peer} may join this mesh: see security.secret"
    if security.secret and len(security.secret) < SECRET_CHARS_LEAST:
        yield f"security.secret can be guessed: take {SECRET_CHARS_LEAST} characters at least"


def _is_own(address: str) -> bool:
    """Return whether only this machine reaches an address; of other names nobody knows."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
