"""The doors of OpenAI's API for text: models, chat and completions, at once or as a stream.

Shell. Any client of that API works against any node: roles of kind `generate` are models,
and so is each pipeline that answers a text with a text.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from aiohttp import web

from mesh.api import answer, catalog, events, intake, openai_answer, openai_form, speech
from mesh.api.catalog import Model
from mesh.api.openai_answer import Shape
from mesh.api.openai_form import Wanted
from mesh.api.parts import PARTS, Parts, Types
from mesh.api.speech import Finished, Question
from mesh.api.whole import Whole
from mesh.errors import BadRequest, MeshError, TooLarge, Unprocessable
from mesh.policy.request import Request
from mesh.settings.topology import Topology

DONE = b"data: [DONE]\n\n"
_chance = random.Random()  # seeds of answers whose caller named none: no secrets

Form = Callable[[Mapping[str, Any]], Wanted]


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return [
        web.get("/v1/models", list_models),
        web.get("/v1/models/{id}", get_model),
        web.post("/v1/chat/completions", chat),
        web.post("/v1/completions", complete),
    ]


async def list_models(request: web.Request) -> web.Response:
    """Return every model: roles that generate, embed or rerank, and pipelines of text."""
    found = models_of(request.app[PARTS])
    return answer.json({"object": "list", "data": list(found.values())})


async def get_model(request: web.Request) -> web.Response:
    """Return one model."""
    return answer.json(catalog.chosen(models_of(request.app[PARTS]), request.match_info["id"]))


async def chat(request: web.Request) -> web.StreamResponse:
    """Answer a conversation, as OpenAI's chat completions do."""
    return await _answer(request, openai_form.chat)


async def complete(request: web.Request) -> web.StreamResponse:
    """Go on from a prompt, as OpenAI's completions do."""
    return await _answer(request, openai_form.completion)


def models_of(parts: Parts) -> dict[str, dict[str, Any]]:
    """Return every model by name, as OpenAI lists them."""
    found: dict[str, dict[str, Any]] = {}
    kinds = {"generate": catalog.of_text(*_known(parts))}
    kinds |= {kind: catalog.of_kind(parts.topology, kind) for kind in ("embed", "rerank")}
    for kind, models in kinds.items():
        for name, model in models.items():
            found.setdefault(
                name,
                {
                    "id": name,
                    "object": "model",
                    "created": parts.opened_at,
                    "owned_by": parts.topology.mesh.name,
                    "kind": "pipeline" if model.pipeline else kind,
                },
            )
    return found


async def read(request: web.Request, asked: Request) -> dict[str, Any]:
    """Return the body; what is wrong with it is a 400 here."""
    try:
        return await intake.body_of(request, asked.deadline_s)
    except Unprocessable as error:
        raise refused(error) from error


def refused(error: Unprocessable | TooLarge, param: str = "") -> BadRequest:
    """Return what a role will not take, as this API calls it; `param` if it names no field."""
    own = error.param
    param = openai_form.NAMES.get(own, own) or param
    message = error.message
    if own and message.startswith(own):
        message = param + message.removeprefix(own)
    return BadRequest(message, node=error.node, role=error.role, param=param)


async def _answer(request: web.Request, form: Form) -> web.StreamResponse:
    parts = request.app[PARTS]
    asked = intake.request_of(request)
    with parts.admission.admit(asked):
        wanted = form(await read(request, asked))
        model = catalog.chosen(catalog.of_text(*_known(parts)), wanted.model)
        if own_s := parts.pipelines.deadline_s(model.pipeline):
            asked = intake.request_of(request, own_s)
        questions, shape = _questions(parts, model, wanted), _shape(asked, wanted)
        try:
            if wanted.is_streamed:
                chunks = _chunks(parts, questions, shape, asked)
                return await events.send(request, asked, chunks, _failure)
            answers = await speech.together([speech.say(parts, one, asked) for one in questions])
        except TooLarge as error:
            raise refused(error, "messages" if wanted.is_chat else "prompt") from error
        except Unprocessable as error:
            raise refused(error) from error
        return Whole(answer.encode(shape.whole(answers)))


def _known(parts: Parts) -> tuple[Topology, Mapping[str, Types]]:
    return parts.topology, parts.input_types


def _questions(parts: Parts, model: Model, wanted: Wanted) -> list[Question]:
    """Return what each answer is to be about."""
    if model.role:
        calls = wanted.calls(_seed(parts, model, wanted))
        return [Question(at, model, fields) for at, fields in enumerate(calls)]
    if None in wanted.texts:
        param = "messages" if wanted.is_chat else "prompt"
        what = "a message of the user" if wanted.is_chat else "a prompt of text"
        raise BadRequest(f"{param}: the pipeline {model.id!r} takes {what}", param=param)
    if wanted.has_odds:
        raise BadRequest(f"logprobs: the pipeline {model.id!r} tells none", param="logprobs")
    texts = [text for text in wanted.texts for _ in range(wanted.count)]
    return [Question(at, model, {model.input: text}) for at, text in enumerate(texts)]


def _seed(parts: Parts, model: Model, wanted: Wanted) -> int:
    """Return a seed for answers whose caller names none; one that is never used stays 0."""
    options = parts.topology.roles[model.role].options
    heat = wanted.options.get("temperature", options.get("temperature", 0.0))
    return _chance.getrandbits(62) if heat else 0


def _shape(asked: Request, wanted: Wanted) -> Shape:
    return Shape(
        id=f"{'chatcmpl' if wanted.is_chat else 'cmpl'}-{asked.id}",
        model=wanted.model,
        created_at=int(time.time()),
        is_chat=wanted.is_chat,
        has_odds=wanted.has_odds,
        count=wanted.count,
        echoes=wanted.echoes,
        has_usage=wanted.has_usage,
    )


async def _chunks(
    parts: Parts, questions: list[Question], shape: Shape, asked: Request
) -> AsyncGenerator[bytes, None]:
    """Yield the events of a stream."""
    begun: set[int] = set()
    ends: list[tuple[int, Finished]] = []
    flows = [speech.speak(parts, one, asked) for one in questions]
    async with aclosing(speech.mixed(flows)) as said:
        async for part in said:
            if part.index not in begun:
                begun.add(part.index)
                if shape.is_chat or shape.echoes:
                    yield _event(shape.first(part.index))
            if part.finished is not None:
                ends.append((part.index, part.finished))
            yield _event(shape.chunk(part))
    if shape.has_usage:
        yield _event(shape.last(ends))
    yield DONE


def _event(value: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % answer.encode(value)


def _failure(error: MeshError) -> bytes:
    return _event(openai_answer.error(error))
