"""Two real connections back to back, without sockets: the fake peer of every wire test."""

from __future__ import annotations

from mesh.wire.connection import Connection, Limits
from mesh.wire.events import Event
from mesh.wire.handshake import NONCE_BYTES


def connection(
    *,
    is_client: bool,
    mesh: str = "demo",
    node: str = "",
    secret: str = "",
    limits: Limits | None = None,
) -> Connection:
    """Return one side; its nonce says which."""
    return Connection(
        is_client=is_client,
        mesh=mesh,
        node=node or ("client" if is_client else "server"),
        secret=secret,
        nonce=bytes([is_client]) * NONCE_BYTES,
        limits=limits,
    )


def drain(side: Connection) -> bytes:
    """Return everything that `side` wants to send."""
    return b"".join(iter(lambda: b"".join(side.data_to_send()), b""))


class ConnectionPair:
    """A client and a server; what one sends the other receives, in chunks of `chunk_bytes`."""

    def __init__(
        self,
        client: Connection | None = None,
        server: Connection | None = None,
        chunk_bytes: int = 1 << 30,
    ) -> None:
        self.client = client or connection(is_client=True)
        self.server = server or connection(is_client=False)
        self.chunk_bytes = chunk_bytes

    def pump(self) -> tuple[list[Event], list[Event]]:
        """Carry bytes both ways until none are left; return what client and server were told."""
        told: tuple[list[Event], list[Event]] = ([], [])
        while True:
            to_server, to_client = drain(self.client), drain(self.server)
            if not to_server and not to_client:
                return told
            told[1].extend(self._feed(self.server, to_server))
            told[0].extend(self._feed(self.client, to_client))

    def _feed(self, side: Connection, data: bytes) -> list[Event]:
        events: list[Event] = []
        for start in range(0, len(data), self.chunk_bytes):
            events += side.receive_data(data[start : start + self.chunk_bytes])
            side.check()
        return events


def opened(**limits: int) -> ConnectionPair:
    """Return a pair after its handshake; `limits` are the server's and the client's."""
    both = Limits(**limits)
    pair = ConnectionPair(
        connection(is_client=True, limits=both), connection(is_client=False, limits=both)
    )
    pair.pump()
    return pair
