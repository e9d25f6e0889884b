"""The other side of `flow.process`: one role, batches in, answers out, until the pipe ends.

Shell: started as `python -m mesh.flow.child MODULE:CLASS`; the first line on its
standard input is the role's context. What the role prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import IO, Any

from mesh.flow.lane import run_batch
from mesh.flow.process import receive, send, told_of
from mesh.roles import custom
from mesh.roles.base import Context, Role
from mesh.wire.arrays import Decoder, Encoder


def main(kind: str) -> None:
    """Serve one role to the parent."""
    source = sys.stdin.buffer
    target = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    encoder = Encoder()
    told = json.loads(source.readline())
    try:
        role = custom.find(kind)(Context(**told | {"data": Path(told["data"])}))
        role.load()
    except Exception as error:  # noqa: BLE001 - the parent raises it
        send(target, encoder, [f"{type(error).__name__}: {error}"])
        return
    send(target, encoder, [""])
    try:
        _serve(role, source, target, encoder)
    finally:
        role.close()


def _serve(role: Role, source: IO[bytes], target: IO[bytes], encoder: Encoder) -> None:
    decoder: Decoder[Any] = Decoder(list)
    while True:
        try:
            batch = receive(source, decoder)
        except EOFError:
            return
        send(target, encoder, [told_of(answer) for answer in run_batch(role, batch).answers])


if __name__ == "__main__":
    main(sys.argv[1])
