"""Answers with a language model: query, documents → answer, piece by piece.

Shell: owns an `llm.engine.Engine`; torch comes with `load`. Besides the question of the
demo it takes a `prompt` to go on from (text or tokens), chat `messages`, or a bare `text`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Container, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ClassVar

from mesh.errors import SetupError, TooLarge, Unprocessable
from mesh.models import sources
from mesh.policy.request import Request
from mesh.roles.base import RESUME, Piece, StreamRole, Whole
from mesh.wire.messages import Fields

log = logging.getLogger(__name__)

SYSTEM = "When given Context and Question, reply as 'Answer: <final answer>' only."
QUESTION = "Context:\n{context}\n\nQuestion: {query}\n\nAnswer:"
PREFIX = "Answer:"  # models that do as SYSTEM says begin so; readers need not see it
_FIELD = re.compile(r"\{context\}|\{query\}")
STOPS_MAX = 16  # strings per request; OpenAI takes 4
LOOKED_AT = 8  # characters per token that fits; ordinary text has 4


class Generate(StreamRole):
    """Streams an answer; many at once share each step of the model."""

    takes: ClassVar[Mapping[str, Any]] = {
        "query": str | None,
        "documents": list | None,
        "prompt": str | list | None,  # text, or ids of tokens
        "messages": list | None,
        "text": str | None,  # a message to a chat model, a prompt to another
        "tokens_max": int | None,
        "tokens_min": int | None,
        "ignores_ends": bool | None,
        "temperature": float | None,
        "top_k": int | None,
        "top_p": float | None,
        "min_p": float | None,
        "repetition": float | None,
        "presence": float | None,
        "frequency": float | None,
        "seed": int | None,
        "stop": list | None,
        "logprobs": int | None,  # how many alternatives to tell of each token
        RESUME: list | None,
    }
    gives: ClassVar[tuple[str, ...]] = (
        "answer",
        "finish",
        "prompt_tokens",
        "cached_tokens",
        "answer_tokens",
        "logprobs",
    )
    resumable: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Any]] = {
        # How a question is put.
        "system": SYSTEM,
        "question": QUESTION,
        "examples": (),  # [{context, query, answer}]: said before; small models follow them
        "documents_max": 3,
        "content_chars_max": 200,
        # How it is answered, where the request does not say.
        "tokens_max": 128,
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "repetition": 1.0,
        "presence": 0.0,
        "frequency": 0.0,
        "seed": 0,
        "stop": (),
        # What the engine may use: `llm.loading.EngineSettings`.
        "weights": "auto",
        "sequences_max": 16,
        "context_max": 2048,
        "kv_mb": 0,
        "chunk": 256,
        "has_wide": True,
        "reuse": "all",  # of what was computed for others: a prompt's beginning is read once.
        # "exact": so that no bit of an answer depends on others (many are slower); or "none".
        "warm_max": 8,  # finished answers whose keys and values are kept for that
        "drafts_max": 7,  # tokens guessed per step from what was said before; 0 for none
        "hidden": "float32",  # how split layers send rows on; "bfloat16" halves them, and rounds
    }

    opened: Any  # mesh.llm.loading.Opened; torch comes with `load`: every node reads this class

    def load(self) -> None:
        """Load the model and start its engine."""
        from mesh.llm.loading import EngineSettings, open_engine

        _check(self.context.options)
        options = self.context.options
        settings = EngineSettings(
            weights=options["weights"],
            threads=self.context.threads,
            sequences_max=options["sequences_max"],
            context_max=options["context_max"],
            kv_mb=options["kv_mb"],
            chunk=options["chunk"],
            has_wide=options["has_wide"],
            reuse=options["reuse"],
            warm_max=options["warm_max"],
            drafts_max=options["drafts_max"],
        )
        path, links = sources.locate(self.context.model), self.context.links
        if links is None:
            self.opened = open_engine(path, settings, self._report)
            return
        from mesh.llm.split_loading import open_head

        hidden = options["hidden"]
        self.opened = open_head(
            path, settings, links, links.layers, hidden=hidden, report=self._report
        )

    async def stream(self, item: Fields, request: Request) -> AsyncIterator[Piece | Whole]:
        """Yield the answer as it is made.

        Raises:
            Unprocessable: neither query, prompt, messages nor text, or an option out of range.
            TooLarge: the prompt leaves no room for an answer.
        """
        ask = self._ask(item, request)
        is_question = item.get("query") is not None
        trim = Prefix(PREFIX if is_question else "")
        odds: list[Fields] | None = None if item.get("logprobs") is None else _odds_told(item)
        answer, told = "", _chars(item)
        tokens: list[int] = []  # not yet told: with its text, another node could go on
        async with aclosing(self.opened.engine.submit(ask)) as said:
            async for part in said:
                text = trim.push(part.text)
                if part.finish is not None:
                    text += trim.flush()
                told, again = max(0, told - len(text)), told
                answer, text = answer + text, text[again:]
                tokens += [choice.token for choice in part.choices]
                new = [] if odds is None else self._odds(part.choices, ask.ends)
                if new:
                    assert odds is not None
                    odds += new
                    yield Piece({"logprobs": new, "answer": text, "tokens": tokens})
                    tokens = []
                elif text:
                    yield Piece({"answer": text, "tokens": tokens})
                    tokens = []
                if part.finish is not None:
                    # A question's answer stands alone; what goes on from a prompt keeps its blanks.
                    whole = answer.strip() if is_question else answer
                    yield self._whole(whole, part.finish, odds)

    def statistics(self) -> dict[str, Any]:
        """Return the model, its size, and what the engine does."""
        shape = self.opened.architecture
        return {
            "model": self.context.model,
            "kind": shape.kind,
            "layers": shape.layers,
            "size_bytes": self.opened.size_bytes,
            "context": self.opened.context,
            "engine": self.opened.engine.statistics(),
        }

    def close(self) -> None:
        """Stop the engine."""
        if hasattr(self, "opened"):  # a role whose `load` failed is closed too
            self.opened.engine.close()

    def _report(self, error: BaseException) -> None:
        log.error("llm.step_failed", exc_info=error)

    def _odds(self, choices: Sequence[Any], ends: Container[int]) -> list[Fields]:
        """Return tokens with their odds, as JSON can hold them; an end token is no text."""
        name = self.opened.tokenizer.name
        return [
            {
                "token": name(choice.token),
                "logprob": choice.logprob,
                "top": [[name(token), logprob] for token, logprob in choice.alternatives],
            }
            for choice in choices
            if choice.token not in ends
        ]

    def _whole(self, answer: str, finish: Any, odds: list[Fields] | None) -> Whole:
        fields: Fields = {
            "answer": answer,
            "finish": finish.reason.value,
            "prompt_tokens": finish.prompt_tokens,
            "cached_tokens": finish.cached_tokens,
            "answer_tokens": finish.answer_tokens,
        }
        return Whole(
            fields if odds is None else fields | {"logprobs": odds},
            queued_ms=finish.queued_ms,
            ran_ms=finish.ran_ms,
            batch_size=finish.batch_size,
        )

    def _ask(self, item: Fields, request: Request) -> Any:
        from mesh.llm.engine import Ask

        prompt = tuple(self._prompt(item))
        self._refuse_longer(len(prompt))
        room = self.opened.context - len(prompt)
        if not prompt:
            raise Unprocessable("prompt: expected at least one token", param="prompt")
        stops = self._given(item, "stop")
        if len(stops) > STOPS_MAX or not all(isinstance(stop, str) for stop in stops):
            raise Unprocessable(f"stop: expected up to {STOPS_MAX} strings", param="stop")
        tokens_max, tokens_min = self._given(item, "tokens_max"), item.get("tokens_min") or 0
        if tokens_max < 1:
            what = f"tokens_max: expected at least 1, found {tokens_max}"
            raise Unprocessable(what, param="tokens_max")
        if not 0 <= tokens_min <= tokens_max:
            what = f"tokens_min: expected 0 to {tokens_max}, found {tokens_min}"
            raise Unprocessable(what, param="tokens_min")
        return Ask(
            prompt=prompt,
            sampling=self._sampling(item),
            tokens_max=min(tokens_max, room),
            tokens_min=tokens_min,
            stops=tuple(stops),
            ends=frozenset() if item.get("ignores_ends") else self.opened.tokenizer.ends,
            deadline_s=request.deadline_s,
            priority=int(request.priority),
            said=tuple(_tokens(_said(item), self.opened.architecture.vocabulary)),
        )

    def _sampling(self, item: Fields) -> Any:
        from mesh.models.sampling import Sampling

        names = ("temperature", "top_k", "top_p", "min_p", "repetition", "presence", "frequency")
        given = {name: self._given(item, name) for name in (*names, "seed")}
        return Sampling(**given, logprobs=item.get("logprobs"))

    def _given(self, item: Fields, name: str) -> Any:
        value = item.get(name)
        return self.context.options[name] if value is None else value

    def _prompt(self, item: Fields) -> list[int]:
        tokenizer = self.opened.tokenizer
        prompt = item.get("prompt")
        if isinstance(prompt, list):
            self._refuse_longer(len(prompt))
            return _tokens(prompt, self.opened.architecture.vocabulary)
        if prompt is None and item.get("text") is not None and not tokenizer.template:
            prompt = item["text"]
        if prompt is not None:
            return self._encoded(prompt)
        if item.get("messages") is not None:
            messages = _checked(item["messages"])
        elif item.get("text") is not None:
            messages = [{"role": "user", "content": item["text"]}]
        elif item.get("query") is not None:
            messages = self._question(item["query"], item.get("documents") or [])
        else:
            raise Unprocessable("expected one of query, prompt, messages, text")
        return self._encoded(tokenizer.chat(messages), is_chat=True)

    def _refuse_longer(self, tokens: int) -> None:
        limit = self.opened.context - 1  # one is left for an answer
        if tokens > limit:
            raise TooLarge(f"a prompt of {tokens} tokens; expected 1 to {limit}")

    def _encoded(self, text: str, *, is_chat: bool = False) -> list[int]:
        """Return a text's tokens.

        Of a long one the beginning is tried first: the loop waits meanwhile, and over megabytes
        so long that other nodes take this one for dead.
        """
        encode, limit = self.opened.tokenizer.encode, self.opened.context
        size = LOOKED_AT * limit
        while size < len(text):
            if len(encode(text[:size], is_chat=is_chat)) > limit + limit // 2:  # the cut costs less
                what = f"a prompt of {len(text)} characters"
                raise TooLarge(f"{what}; expected 1 to {limit - 1} tokens")
            size *= 4
        return encode(text, is_chat=is_chat)  # type: ignore[no-any-return]

    def _question(self, query: str, documents: Sequence[Any]) -> list[dict[str, str]]:
        options = self.context.options
        lines = context_lines(documents[: options["documents_max"]], options["content_chars_max"])
        system = [{"role": "system", "content": options["system"]}] if options["system"] else []
        asked = [
            self._user(example["context"], example["query"]) for example in options["examples"]
        ]
        answered = [
            {"role": "assistant", "content": example["answer"]} for example in options["examples"]
        ]
        said = [message for pair in zip(asked, answered, strict=True) for message in pair]
        return [*system, *said, self._user(lines, query)]

    def _user(self, context: str, query: str) -> dict[str, str]:
        given = {"{context}": context, "{query}": query}
        # In one pass: a query that says "{context}" stays as it is.
        filled = _FIELD.sub(lambda field: given[field[0]], self.context.options["question"])
        return {"role": "user", "content": filled}


def _check(options: Mapping[str, Any]) -> None:
    """Raise what is wrong with the options, before anything is read."""
    problems = [
        f"examples: expected context, query and answer, all text, found {example!r}"
        for example in options["examples"]
        if not isinstance(example, Mapping)
        or not all(isinstance(example.get(key), str) for key in ("context", "query", "answer"))
    ]
    if "{query}" not in options["question"]:
        problems.append("question: expected a text with {query}, and {context} for documents")
    if problems:
        raise SetupError(*problems)


def _said(item: Fields) -> list[int]:
    """Return the tokens that another node made of this answer.

    Raises:
        Unprocessable: they are none.
    """
    pieces = item.get(RESUME) or []
    try:
        return [token for piece in pieces for token in piece["tokens"]]
    except (KeyError, TypeError) as error:
        raise Unprocessable("resume: expected pieces of an answer, with their tokens") from error


def _odds_told(item: Fields) -> list[Fields]:
    """Return what was told of the odds of these tokens."""
    return [odds for piece in item.get(RESUME) or [] for odds in piece.get("logprobs", [])]


def _chars(item: Fields) -> int:
    """Return how many characters of this answer were told by another node."""
    return sum(len(piece.get("answer", "")) for piece in item.get(RESUME) or [])


class Prefix:
    """Takes a prefix off text that comes in pieces, with the blanks around it."""

    def __init__(self, prefix: str) -> None:
        self._prefix, self._held, self._is_past = prefix, "", not prefix

    def push(self, text: str) -> str:
        """Return what may be shown now."""
        if self._is_past:
            return text
        self._held = (self._held + text).lstrip()
        if self._prefix.startswith(self._held):
            return ""  # it may still become the prefix, or blanks may follow it
        self._is_past = True
        shown, self._held = self._held.removeprefix(self._prefix).lstrip(), ""
        return shown

    def flush(self) -> str:
        """Return what was held back."""
        shown, self._held = self._held, ""
        return "" if shown == self._prefix else shown


def context_lines(documents: Sequence[Any], content_chars_max: int) -> str:
    """Return one line per document: its title and the beginning of its content."""
    lines = []
    for document in documents:
        if not isinstance(document, Mapping):
            raise Unprocessable("documents: expected objects with title and content")
        content = " ".join(str(document.get("content", "")).split())[:content_chars_max]
        lines.append(f"- {document.get('title', '')}: {content}")
    return "\n".join(lines)


def _tokens(ids: list[Any], vocabulary: int) -> list[int]:
    """Return a prompt that came as tokens."""
    for id_ in ids:
        if type(id_) is not int or not 0 <= id_ < vocabulary:
            most = vocabulary - 1
            what = f"prompt: expected tokens from 0 to {most}, found {id_!r}"
            raise Unprocessable(what, param="prompt")
    return ids


def _checked(messages: Sequence[Any]) -> list[dict[str, str]]:
    """Return chat messages whose role and content are text."""
    for message in messages:
        is_fine = isinstance(message, Mapping) and isinstance(message.get("role"), str)
        if not is_fine or not isinstance(message.get("content"), str):
            raise Unprocessable("messages: expected objects with role and content, both text")
    if not messages:
        raise Unprocessable("messages: expected at least one")
    return list(messages)
