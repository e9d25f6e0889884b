"""Reads the bodies of OpenAI's routes into what roles take.

Pure. Fields that are unknown are passed over, as clients send many; one that is known but
cannot be honoured is refused rather than ignored. A wrong one is named in the error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from mesh.errors import BadRequest
from mesh.wire.wording import sentence

CHOICES_MAX = 64  # answers to one request: prompts times n
STOPS_MAX = 16  # strings per request, as of the role; OpenAI takes 4
COMPLETION_TOKENS = 16  # OpenAI's default, which clients of this old route count on
_SILENT = ("assistant", "function", "tool")  # who may have called a tool, or answered nothing
_SEED_STEP = 0x9E3779B97F4A7C15  # golden ratio of 2**64: seeds of choices lie far apart
_SEED_MAX = 2**63 - 1
_FIELD = re.compile(r"\w*")  # of the body, with which the place of a fault begins

NAMES = {
    "tokens_max": "max_tokens",
    "tokens_min": "min_tokens",
    "repetition": "repetition_penalty",
    "presence": "presence_penalty",
    "frequency": "frequency_penalty",
}
"""What this API calls fields of the role whose own names differ."""

Prompt = str | list[int]
Small = Annotated[int, Meta(ge=1, le=CHOICES_MAX)]
Seed = Annotated[int, Meta(ge=-(2**63), le=_SEED_MAX)]
Odds = Annotated[int, Meta(ge=0, le=20)]
Heat = Annotated[float, Meta(ge=0, le=100)]
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Repetition = Annotated[float, Meta(gt=0, le=100)]
Stops = Annotated[list[str], Meta(max_length=STOPS_MAX)]


class Part(Struct, frozen=True):
    """A piece of a message."""

    type: str
    text: str | None = None


class Message(Struct, frozen=True):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None


class StreamOptions(Struct, frozen=True):
    """What is wanted of a stream."""

    include_usage: bool | None = False


class Options(Struct, frozen=True):
    """What both routes of text take."""

    model: str
    n: Small | None = 1
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stop: str | Stops | None = None
    seed: Seed | None = None
    max_tokens: int | None = None
    temperature: Heat | None = None
    top_p: Share | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, float] | None = None
    # Not OpenAI's: what other servers and the tools that measure them have.
    top_k: int | None = None
    min_p: Share | None = None
    repetition_penalty: Repetition | None = None
    min_tokens: Annotated[int, Meta(ge=0)] | None = None
    ignore_eos: bool | None = None


class Format(Struct, frozen=True):
    """Which form the answer is to have."""

    type: str = "text"


class Chat(Options, frozen=True, kw_only=True):
    """Body of `/v1/chat/completions`."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: Odds | None = None
    response_format: Format | None = None
    tool_choice: Any = None
    function_call: Any = None
    modalities: list[str] | None = None


class Completion(Options, frozen=True, kw_only=True):
    """Body of `/v1/completions`."""

    prompt: str | list[Any]
    logprobs: Odds | None = None
    echo: bool | None = False
    suffix: str | None = None
    best_of: int | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request for text, whichever route it came by.

    Attributes:
        model: its name.
        items: what is asked, one for each prompt: `messages` or `prompt` of `generate`.
        texts: the same as one text each, for a pipeline; None where it is none.
        options: the other fields of `generate`.
        count: answers to each prompt.
        is_streamed: it is to come piece by piece.
        has_usage: the stream is to end with what was used.
        has_odds: odds of tokens are wanted.
        echoes: what each answer begins with.
        is_chat: it came by the route for chat.
    """

    model: str
    items: tuple[dict[str, Any], ...]
    texts: tuple[str | None, ...]
    options: dict[str, Any]
    count: int = 1
    is_streamed: bool = False
    has_usage: bool = False
    has_odds: bool = False
    echoes: tuple[str, ...] = ()
    is_chat: bool = True

    def calls(self, chance: int) -> list[dict[str, Any]]:
        """Return the fields of each call of `generate`: prompts in order, `count` of each.

        Args:
            chance: the seed where the caller names none.
        """
        seed = self.options.get("seed", chance)
        seeds = [(seed + at * _SEED_STEP) & _SEED_MAX if at else seed for at in range(self.count)]
        return [{**item, **self.options, "seed": each} for item in self.items for each in seeds]


def chat(body: Mapping[str, Any]) -> Wanted:
    """Return what a body of `/v1/chat/completions` asks for."""
    form = converted(body, Chat)
    if form.response_format is not None and form.response_format.type != "text":
        raise BadRequest("response_format: only text can be promised", param="response_format")
    for name in ("tool_choice", "function_call"):
        if getattr(form, name) not in (None, "none", "auto"):
            raise BadRequest(f"{name}: these models call no tools", param=name)
    if form.modalities not in (None, ["text"]):
        raise BadRequest("modalities: these models give text", param="modalities")
    if form.top_logprobs is not None and not form.logprobs:
        raise BadRequest("top_logprobs needs logprobs = true", param="top_logprobs")
    messages = [_message(at, message) for at, message in enumerate(form.messages)]
    asked = [message["content"] for message in messages if message["role"] == "user"]
    newer = "max_completion_tokens"  # goes before the older name
    limit = newer if form.max_completion_tokens is not None else "max_tokens"
    odds = (form.top_logprobs or 0) if form.logprobs else None
    return Wanted(
        model=form.model,
        items=({"messages": messages},),
        texts=(asked[-1] if asked else None,),
        options=_options(form, getattr(form, limit), odds, limit),
        is_chat=True,
        **_manner(form, odds),
    )


def completion(body: Mapping[str, Any]) -> Wanted:
    """Return what a body of `/v1/completions` asks for."""
    form = converted(body, Completion)
    prompts = _prompts(form.prompt)
    if form.suffix:
        raise BadRequest("suffix: these models only go on from a prompt", param="suffix")
    if form.best_of is not None and form.best_of != (form.n or 1):
        raise BadRequest("best_of must equal n: answers are not compared", param="best_of")
    if len(prompts) * (form.n or 1) > CHOICES_MAX:
        raise BadRequest(f"prompts times n must be at most {CHOICES_MAX}", param="n")
    texts = tuple(prompt if isinstance(prompt, str) else None for prompt in prompts)
    if form.echo and (None in texts or form.logprobs is not None):
        raise BadRequest("echo works with prompts of text, without logprobs", param="echo")
    tokens_max = COMPLETION_TOKENS if form.max_tokens is None else form.max_tokens
    return Wanted(
        model=form.model,
        items=tuple({"prompt": prompt} for prompt in prompts),
        texts=texts,
        options=_options(form, tokens_max, form.logprobs),
        echoes=tuple(text or "" for text in texts) if form.echo else (),
        is_chat=False,
        **_manner(form, form.logprobs),
    )


def converted(body: Mapping[str, Any], kind: type[Any]) -> Any:
    """Return the body as a struct.

    Raises:
        BadRequest: a field is missing or of a wrong type, which is named.
    """
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        text = sentence(error, "")
        raise BadRequest(text, param=_FIELD.match(text)[0]) from error  # type: ignore[index]


def _manner(form: Options, odds: int | None) -> dict[str, Any]:
    if form.stream_options is not None and not form.stream:
        raise BadRequest("stream_options needs stream = true", param="stream_options")
    if form.logit_bias:
        raise BadRequest("logit_bias is not supported", param="logit_bias")
    return {
        "count": form.n or 1,
        "is_streamed": bool(form.stream),
        "has_usage": form.stream_options is not None and bool(form.stream_options.include_usage),
        "has_odds": odds is not None,
    }


def _options(
    form: Options, tokens_max: int | None, odds: int | None, limit: str = "max_tokens"
) -> dict[str, Any]:
    if tokens_max is not None and tokens_max < 1:
        raise BadRequest(f"{limit} must be at least 1, not {tokens_max}", param=limit)
    if tokens_max is not None and form.min_tokens is not None and form.min_tokens > tokens_max:
        raise BadRequest(f"min_tokens must be at most {limit}, {tokens_max}", param="min_tokens")
    is_best = form.top_p == 0  # nothing but the most likely token
    top_k = form.top_k
    stop = [form.stop] if isinstance(form.stop, str) else form.stop
    given = {
        "tokens_max": tokens_max,
        "tokens_min": form.min_tokens,
        "ignores_ends": form.ignore_eos,
        "temperature": form.temperature,
        "top_p": None if is_best else form.top_p,
        "top_k": 1 if is_best else None if top_k is None else max(0, top_k),  # -1: all of them
        "min_p": form.min_p,
        "repetition": form.repetition_penalty,
        "presence": form.presence_penalty,
        "frequency": form.frequency_penalty,
        "seed": form.seed,
        "stop": stop,
        "logprobs": odds,
    }
    return {name: value for name, value in given.items() if value is not None}


def _message(at: int, message: Message) -> dict[str, str]:
    content = message.content
    if content is None and message.role in _SILENT:
        content = ""
    if content is None or content == []:
        raise BadRequest(f"messages[{at}]: content is missing", param="messages")
    if not isinstance(content, str):
        texts = [part.text for part in content if part.type == "text"]
        if len(texts) < len(content) or None in texts:
            raise BadRequest(f"messages[{at}]: only parts of text are read", param="messages")
        content = "".join(text for text in texts if text)
    role = "system" if message.role == "developer" else message.role
    return {"role": role, "content": content}


def _prompts(given: str | Sequence[Any]) -> list[Prompt]:
    """Return each prompt: OpenAI takes a text, tokens, or a list of either."""
    if not given or "" in list(given):
        raise BadRequest("prompt: expected at least one character or token", param="prompt")
    if isinstance(given, str) or all(type(each) is int for each in given):
        return [given]  # type: ignore[list-item]
    for at, each in enumerate(given):
        is_tokens = isinstance(each, list) and each and all(type(id_) is int for id_ in each)
        if not isinstance(each, str) and not is_tokens:
            expected = "a text, tokens, or a list of either"
            raise BadRequest(f"prompt: expected {expected}; [{at}] is neither", param="prompt")
    return list(given)
