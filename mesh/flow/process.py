"""A role in a process of its own, for compute that shares a node with a flood of requests.

Shell: to the lane's thread this looks like the role itself; `load`, `run` and
`close` become messages over the child's pipes. A child that dies fails the item
that killed it, and is started anew for the others.

    thread: run(batch) --length, batch--> stdin  child: run_batch --length, answers--> stdout
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from struct import Struct
from typing import IO, Any

from mesh.errors import MeshError, RoleError, from_code
from mesh.roles.base import Role, StreamRole
from mesh.wire.arrays import Decoder, Encoder
from mesh.wire.messages import Fields

CLOSE_S = 5.0  # how long a child may take to close its role
_HEAD = Struct("<QB")  # bytes of the body, whether it has arrays


class ProcessRole(Role):
    """Stands for a role whose real self is in a child process.

    Args:
        role: built but not loaded; it tells what items look like and cost.
    """

    def __init__(self, role: Role) -> None:
        super().__init__(role.context)
        assert not isinstance(role, StreamRole), "roles that stream have `flow.stream_lane`"
        self._role = role
        self._child: subprocess.Popen[bytes] | None = None
        self._encoder = Encoder()
        self._decoder: Decoder[Any] = Decoder(list)

    @property
    def idempotent(self) -> bool:  # type: ignore[override]
        """As the role says."""
        return self._role.idempotent

    def load(self) -> None:
        """Start the child and wait until its role is loaded."""
        self._start()

    def run(self, batch: Sequence[Fields]) -> Sequence[Fields | Exception]:
        """Let the child answer a batch."""
        child = self._child if self._child is not None else self._start()
        assert child.stdin is not None
        try:
            send(child.stdin, self._encoder, list(batch))
            return [_restored(answer) for answer in self._receive(child)]
        except (OSError, EOFError) as error:
            raise self._died(child) from error

    def close(self) -> None:
        """Let the child end."""
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.close()
        try:
            child.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()

    def _start(self) -> subprocess.Popen[bytes]:
        kind = type(self._role)
        told = asdict(self.context) | {"data": str(self.context.data), "call": None}
        child = subprocess.Popen(
            [sys.executable, "-m", "mesh.flow.child", f"{kind.__module__}:{kind.__qualname__}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert child.stdin is not None
        self._child = child
        try:
            child.stdin.write(json.dumps(told).encode() + b"\n")
            child.stdin.flush()
            (why,) = self._receive(child)
        except (OSError, EOFError) as error:
            raise self._died(child) from error
        if why:
            self.close()
            raise RoleError(why, role=self.context.role)
        return child

    def _receive(self, child: subprocess.Popen[bytes]) -> list[Any]:
        assert child.stdout is not None
        return receive(child.stdout, self._decoder)

    def _died(self, child: subprocess.Popen[bytes]) -> RoleError:
        self.close()
        role = self.context.role
        return RoleError(f"the process of role {role!r} ended with {child.returncode}", role=role)


def send(stream: IO[bytes], encoder: Encoder, value: list[Any]) -> None:
    """Write one message."""
    body = encoder.encode(value)
    parts = [body] if isinstance(body, bytes) else body
    length = sum(memoryview(part).nbytes for part in parts)
    stream.write(_HEAD.pack(length, not isinstance(body, bytes)))
    for part in parts:
        stream.write(part)
    stream.flush()


def receive(stream: IO[bytes], decoder: Decoder[Any]) -> list[Any]:
    """Read one message.

    Raises:
        EOFError: the other side has ended.
    """
    length, has_arrays = _HEAD.unpack(_exactly(stream, _HEAD.size))
    found: list[Any] = decoder.decode(_exactly(stream, length), bool(has_arrays))
    return found


def told_of(answer: Fields | MeshError) -> list[Any]:
    """Return an answer or error as what travels."""
    if isinstance(answer, MeshError):
        return [None, answer.code, answer.message]
    return [answer]


def _restored(told: list[Any]) -> Fields | Exception:
    if told[0] is None:
        return from_code(told[1], told[2])
    found: Fields = told[0]
    return found


def _exactly(stream: IO[bytes], length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data
