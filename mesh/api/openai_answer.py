"""Gives answers the shapes of OpenAI's API.

Pure values in, JSON values out; `api.openai` sends them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mesh.api.speech import Finished, Odd, Said
from mesh.errors import MeshError, TooLarge

BROKEN = "\ufffd"  # stands for bytes that are no whole character: then nobody knows them
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_CODES = {"unauthorized": "invalid_api_key", "bad_request": None}


def error(problem: MeshError) -> dict[str, Any]:
    """Return the body of an error."""
    is_callers = problem.status < 500
    kind = _TYPES.get(problem.status, "invalid_request_error" if is_callers else "server_error")
    code = _CODES.get(problem.code, problem.code)
    if problem.status == 404 and problem.param == "model":
        code = "model_not_found"
    if isinstance(problem.__cause__, TooLarge):
        code = "context_length_exceeded"
    return {
        "error": {
            "message": problem.message,
            "type": kind,
            "param": problem.param or None,
            "code": code,
        }
    }


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of one request's answer.

    Attributes:
        id: of the answer.
        model: as the caller named it.
        created_at: whole seconds, UTC.
        is_chat: it came by the route for chat.
        has_odds: odds of tokens are wanted.
        count: answers to each prompt, which is paid for once.
        echoes: what the answers to each prompt begin with.
        has_usage: a stream ends with what was used.
    """

    id: str
    model: str
    created_at: int
    is_chat: bool
    has_odds: bool
    count: int
    echoes: tuple[str, ...] = ()
    has_usage: bool = False

    def whole(self, answers: Sequence[Said]) -> dict[str, Any]:
        """Return a whole answer."""
        choices = [self._choice(said) for said in answers]
        ends = [(said.index, said.finished) for said in answers if said.finished is not None]
        kind = "chat.completion" if self.is_chat else "text_completion"
        body = self._body(kind, choices) | {"usage": self.usage(ends)}
        return body | _others(end for _, end in ends)

    def first(self, index: int) -> dict[str, Any]:
        """Return the chunk that begins an answer of a stream."""
        if self.is_chat:
            return self._chunk(index, {"delta": {"role": "assistant", "content": ""}}, None)
        return self._chunk(index, {"text": self._echo(index)}, None)

    def chunk(self, said: Said) -> dict[str, Any]:
        """Return what is new of an answer."""
        text: dict[str, Any] = {"delta": {"content": said.text}} if self.is_chat else {}
        text = text or {"text": said.text}
        if said.finished is None:
            return self._chunk(said.index, text, None, said.odds)
        end = {"delta": {"content": said.text} if said.text else {}} if self.is_chat else text
        body = self._chunk(said.index, end, said.finished.reason, said.odds)
        return body | _others([said.finished])

    def last(self, ends: Sequence[tuple[int, Finished]]) -> dict[str, Any]:
        """Return the chunk that says what the stream used."""
        return self._chunked([]) | {"usage": self.usage(ends)}

    def usage(self, ends: Iterable[tuple[int, Finished]]) -> dict[str, Any]:
        """Return what the answers used; a prompt counts once, however often it is answered."""
        ends = list(ends)
        paid = [end for index, end in ends if index % self.count == 0]
        asked = sum(end.prompt_tokens for end in paid)
        said = sum(end.answer_tokens for _, end in ends)
        return {
            "prompt_tokens": asked,
            "completion_tokens": said,
            "total_tokens": asked + said,
            "prompt_tokens_details": {"cached_tokens": sum(end.cached_tokens for end in paid)},
        }

    def _choice(self, said: Said) -> dict[str, Any]:
        assert said.finished is not None
        message = {"role": "assistant", "content": said.text}
        own = {"message": message} if self.is_chat else {"text": self._echo(said.index) + said.text}
        odds = self._odds(said.odds) if self.has_odds else None
        reason = said.finished.reason
        return {"index": said.index, **own, "logprobs": odds, "finish_reason": reason}

    def _chunk(
        self, index: int, own: dict[str, Any], reason: str | None, odds: tuple[Odd, ...] = ()
    ) -> dict[str, Any]:
        told = self._odds(odds) if odds else None
        choice = {"index": index, **own, "logprobs": told, "finish_reason": reason}
        return self._chunked([choice])

    def _chunked(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        body = self._body("chat.completion.chunk" if self.is_chat else "text_completion", choices)
        return body | {"usage": None} if self.has_usage else body

    def _body(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created_at,
            "model": self.model,
            "choices": choices,
            "system_fingerprint": None,
        }

    def _echo(self, index: int) -> str:
        return self.echoes[index // self.count] if self.echoes else ""

    def _odds(self, odds: Sequence[Odd]) -> dict[str, Any]:
        if self.is_chat:
            return {"content": [_chat_odd(odd) for odd in odds], "refusal": None}
        offsets = [0]
        for odd in odds:
            offsets.append(offsets[-1] + len(odd.token))
        return {
            "tokens": [odd.token for odd in odds],
            "token_logprobs": [odd.logprob for odd in odds],
            "top_logprobs": [dict(odd.top) for odd in odds],
            "text_offset": offsets[:-1],
        }


def _chat_odd(odd: Odd) -> dict[str, Any]:
    top = [_one(token, logprob) for token, logprob in odd.top]
    return {**_one(odd.token, odd.logprob), "top_logprobs": top}


def _one(token: str, logprob: float) -> dict[str, Any]:
    known = None if BROKEN in token else list(token.encode())
    return {"token": token, "logprob": logprob, "bytes": known}


def _others(ends: Iterable[Finished]) -> dict[str, Any]:
    """Return what else a pipeline gave, under a key that OpenAI's clients pass over."""
    others = [end.others for end in ends if end.others]
    return {"mesh": others[0]} if others else {}
