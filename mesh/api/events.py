"""Sends server-sent events: what fails before the first has a status, afterwards it is an event.

Shell. A client that goes away cancels the handler, and closing the chunks cancels the work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from aiohttp import web

from mesh.api import answer
from mesh.api.guard import PARTIAL
from mesh.api.parts import PARTS
from mesh.errors import Cancelled, DeadlineExceeded, MeshError, RoleError
from mesh.policy.request import Request

READER_GRACE_S = 1.0  # past the deadline, for a slow reader to take what is written already

Chunks = AsyncGenerator[bytes, None]


async def send(
    request: web.Request, asked: Request, chunks: Chunks, failure: Callable[[MeshError], bytes]
) -> web.StreamResponse:
    """Send an answer as it comes.

    Args:
        request: of aiohttp.
        asked: how long it may take.
        chunks: whole events.
        failure: makes the last event of an answer that fails after it began.
    """
    async with aclosing(chunks):
        first = await anext(chunks)
        response = web.StreamResponse(
            headers={**answer.HEADERS, "X-Accel-Buffering": "no", "X-Request-ID": asked.id}
        )
        response.content_type = answer.EVENTS
        try:
            await response.prepare(request)
            async with asyncio.timeout(asked.left_s(time.monotonic()) + READER_GRACE_S):
                await _write_all(request, response, first, chunks, failure)
            await response.write_eof()
        except ConnectionError:
            # The client is gone; a write has met it before the loop told us, and cancelled this.
            request[PARTIAL] = Cancelled.code
            _abort(request)
        except TimeoutError:
            # The answer was ready in time; who asked does not read it. Nothing more fits in.
            request[PARTIAL] = DeadlineExceeded.code
            _abort(request)
        except BaseException:
            _abort(request)  # an answer that has begun must not look as if it went on
            raise
    return response


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def _write_all(
    request: web.Request,
    response: web.StreamResponse,
    first: bytes,
    chunks: Chunks,
    failure: Callable[[MeshError], bytes],
) -> None:
    try:
        await response.write(first)
        async for chunk in chunks:
            await response.write(chunk)
        return
    except MeshError as error:
        known = error
    except (ConnectionError, TimeoutError):
        raise
    except Exception as error:  # noqa: BLE001 - the stream has begun: it must end with a word
        request.app[PARTS].log.error("request.crashed", error, path=request.path)
        known = RoleError(f"{type(error).__name__} in this node; its log has the traceback")
    request[PARTIAL] = known.code
    await response.write(failure(known))
