"""Runs the tensor engine with W's columns spread over nodes, to the last bit as in one piece.

Shell: a role without weights of its own. It asks the roles named in `across`, each a `tensor`
role with `parts` and its own `part`, for their columns of one layer, joins them, and does so
for each layer. Their batches hold rows of many requests; this role holds none back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

import numpy as np

from mesh.errors import RoleError, SetupError
from mesh.models.tensor import LAYERS, WIDTH, leave
from mesh.policy.request import Request
from mesh.roles.base import Context, Piece, StreamRole, Whole
from mesh.roles.tensor import Tensor, opened
from mesh.wire.messages import Fields


class Columns(StreamRole):
    """Takes and gives what `tensor` does; `across` names the roles of the parts, in order."""

    takes: ClassVar[Mapping[str, Any]] = Tensor.takes
    gives: ClassVar[tuple[str, ...]] = Tensor.gives
    options: ClassVar[Mapping[str, Any]] = {"across": ()}

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._across = tuple(context.options.get("across", ()))
        if not self._across or not all(isinstance(name, str) for name in self._across):
            found = f"found {self._across!r}"
            raise SetupError(f"roles.{context.role}: across: expected names of roles, {found}")

    async def stream(self, item: Fields, request: Request) -> AsyncIterator[Piece | Whole]:
        """Yield the answer, whole.

        Raises:
            Unprocessable: the numbers cannot be read.
            RoleError: the parts are not those of one whole.
        """
        began_s = time.monotonic()
        read = await asyncio.to_thread(opened, item)  # megabytes of JSON: not on the loop
        if isinstance(read, Exception):
            raise read
        row, request_id = read
        for _ in range(LAYERS):
            row = await self._layer(row, request)
        answer: Fields = {"output_data": leave(row[None])[0]}
        if request_id is not None:
            answer["request_id"] = request_id
        yield Whole(answer, ran_ms=(time.monotonic() - began_s) * 1000.0)

    def statistics(self) -> dict[str, Any]:
        """Return who holds the columns."""
        return {"across": self._across}

    async def _layer(self, row: np.ndarray, request: Request) -> np.ndarray:
        """Return the next layer's values, each part's columns in order."""
        call = self.context.call
        assert call is not None
        tasks = [
            asyncio.ensure_future(call(name, {"input_data": row}, request)) for name in self._across
        ]
        try:
            answers = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()  # one has failed, or nobody waits any more
            await asyncio.gather(*tasks, return_exceptions=True)
        columns = np.concatenate([answer["output_data"] for answer in answers])
        if columns.shape != (WIDTH,):
            what = f"the parts {', '.join(self._across)} have {len(columns)} columns together"
            raise RoleError(f"{what}, expected {WIDTH}", role=self.context.role)
        return columns
