"""Doors of the standards for vectors and rankings: embeddings as OpenAI has them, and rerank.

Shell. The texts of one request are items of the role's batches like any others; only so many
are in flight at once that other callers find room between them.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from aiohttp import web
from msgspec import Meta, Struct

from mesh.api import answer, catalog, intake, openai_form, speech
from mesh.api.catalog import Model
from mesh.api.native import counted, note
from mesh.api.openai import read, refused
from mesh.api.parts import PARTS, Parts
from mesh.api.whole import Whole
from mesh.errors import BadRequest, TooLarge, Unprocessable
from mesh.policy.request import Request
from mesh.wire.messages import Fields

TEXTS_MAX = 2048  # OpenAI's limit
DOCUMENTS_MAX = 1000  # Cohere's limit
IN_FLIGHT_MAX = 64  # texts of one request: two of the usual batches, so that the lane never waits


class Embeddings(Struct, frozen=True):
    """Body of `/v1/embeddings`."""

    model: str
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: Annotated[int, Meta(ge=1)] | None = None


class Text(Struct, frozen=True):
    """A document as some clients send it."""

    text: str


class Rerank(Struct, frozen=True):
    """Body of the routes for rankings: what Cohere, Jina and vLLM have in common."""

    query: str
    documents: Annotated[list[str | Text], Meta(min_length=1, max_length=DOCUMENTS_MAX)]
    model: str | None = None
    top_n: Annotated[int, Meta(ge=0)] | None = None  # 0: all, as vLLM has it
    return_documents: bool | None = False


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return [
        web.post("/v1/embeddings", embed),
        web.post("/v1/rerank", rerank),
        web.post("/v2/rerank", rerank),
        web.post("/rerank", rerank),
    ]


async def embed(request: web.Request) -> web.StreamResponse:
    """Return a vector of each text, as OpenAI's embeddings do."""
    parts = request.app[PARTS]
    asked = intake.request_of(request)
    with parts.admission.admit(asked):
        form: Embeddings = openai_form.converted(await read(request, asked), Embeddings)
        model = catalog.chosen(catalog.of_kind(parts.topology, "embed"), form.model)
        texts = _texts(form.input)
        items: list[Fields] = [{"text": text, "counts": True} for text in texts]
        answers = await each(parts, model, items, asked)
    vectors = [_cut(one["vector"], form.dimensions) for one in answers]
    tokens = sum(one["tokens"] for one in answers)
    is_packed = form.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": at, "embedding": _packed(one) if is_packed else one}
        for at, one in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    body = {"object": "list", "data": data, "model": form.model, "usage": usage}
    return Whole(answer.encode(body))


async def rerank(request: web.Request) -> web.StreamResponse:
    """Put documents in order by what they say to a query, as Cohere, Jina and vLLM do."""
    parts = request.app[PARTS]
    asked = intake.request_of(request)
    with parts.admission.admit(asked):
        form: Rerank = openai_form.converted(await read(request, asked), Rerank)
        known = catalog.of_kind(parts.topology, "rerank")
        model = catalog.chosen(known, next(iter(known), "") if form.model is None else form.model)
        texts = [one if isinstance(one, str) else one.text for one in form.documents]
        top = min(form.top_n or len(texts), len(texts))
        item = {"query": form.query, "documents": texts, "top": top, "brief": True}
        (found,) = await each(parts, model, [item], asked)
    results = [
        {"index": one["id"], "relevance_score": one["score"]}
        | ({"document": {"text": texts[one["id"]]}} if form.return_documents else {})
        for one in found["documents"]
    ]
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    body = {"id": asked.id, "model": form.model or model.id, "results": results, "meta": meta}
    return Whole(answer.encode(body))


async def each(parts: Parts, model: Model, items: Sequence[Fields], asked: Request) -> list[Fields]:
    """Return the role's answer to each item; so many at once that a batch is always ready."""
    answers: list[Fields] = [{} for _ in items]

    async def work(left: Iterator[int]) -> None:
        for at in left:
            outcome = await parts.pipelines.run_role(model.role, items[at], asked)
            answers[at] = outcome.fields
            if at == len(items) - 1:
                note(parts, model.label, outcome.trace)

    left = iter(range(len(items)))

    try:
        with counted(parts, model.label):
            await speech.together([work(left) for _ in items[:IN_FLIGHT_MAX]])
    except (Unprocessable, TooLarge) as error:
        raise refused(error) from error
    return answers


def _texts(given: str | list[Any]) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not 1 <= len(texts) <= TEXTS_MAX:
        raise BadRequest(f"input: expected 1 to {TEXTS_MAX} texts", param="input")
    for at, text in enumerate(texts):
        if not isinstance(text, str):
            what = "tokens are not taken" if isinstance(text, int | list) else "it is none"
            raise BadRequest(f"input[{at}]: expected a text; {what}", param="input")
        if not text:
            raise BadRequest(f"input[{at}]: expected a text that is not empty", param="input")
    return texts


def _cut(vector: Any, width: int | None) -> Any:
    """Return the vector's beginning, of length 1 again."""
    if width is None or width == len(vector):
        return vector
    if width > len(vector):
        found = len(vector)
        raise BadRequest(f"dimensions: at most {found}, not {width}", param="dimensions")
    head = vector[:width]
    length = math.sqrt(float(head @ head))
    return head / length if length else head


def _packed(vector: Any) -> str:
    """Return float32, little-endian, in base64: what OpenAI's own client asks for."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
