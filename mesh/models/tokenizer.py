"""Turns text into tokens and back, and messages into a prompt.

Arithmetic; used by `roles.generate`. A folder brings its own `tokenizer.json`; a GGUF file
brings vocabulary and merges in its head, from which the same byte-level BPE is built.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from mesh.errors import SetupError, Unprocessable

# How llama.cpp's `tokenizer.ggml.pre` names cut text before the merges, as far as built.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
REGEXES = {"llama-bpe": _LLAMA3, "llama3": _LLAMA3, "qwen2": _QWEN2, "deepseek-r1-qwen": _QWEN2}
SPLITS_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell")

CONTROL, USER_DEFINED = 3, 4  # values of `tokenizer.ggml.token_type`
ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "</s>")
"""Tokens that end an answer whatever the configuration says: a chat model may use either."""


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A model's tokens.

    Attributes:
        backend: of the `tokenizers` library.
        template: the chat template (Jinja), or "".
        specials: names such as `bos_token` that templates use.
        ends: ids that end an answer.
        adds_start: put `bos_token` before a bare prompt.
    """

    backend: Backend
    template: str = ""
    specials: Mapping[str, str] = field(default_factory=dict)
    ends: frozenset[int] = frozenset()
    adds_start: bool = False

    def encode(self, text: str, *, is_chat: bool = False) -> list[int]:
        """Return the text's tokens; names of special tokens in it become those tokens.

        Args:
            text: what to cut up.
            is_chat: it comes from `chat`, so a start token is in it already if it has one.
        """
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        start = self.backend.token_to_id(self.specials.get("bos_token", ""))
        if self.adds_start and not is_chat and start is not None:
            return [start, *ids]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the tokens, without special ones."""
        return str(self.backend.decode(list(ids), skip_special_tokens=True))

    def name(self, token: int) -> str:
        """Return one token as text; special ones by their names."""
        text = str(self.backend.decode([token], skip_special_tokens=False))
        return text or str(self.backend.id_to_token(token) or "")

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return the prompt which asks for the assistant's next message.

        Raises:
            Unprocessable: the template refuses the messages.
        """
        if not self.template:
            lines = [f"{message['role']}: {message['content']}\n" for message in messages]
            return "".join(lines) + "assistant:"
        from jinja2 import TemplateError

        try:
            return _compiled(self.template).render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=True,
                **self.specials,
            )
        except (TemplateError, TypeError) as error:
            raise Unprocessable(f"the model's chat template: {error}") from error


def _compiled(template: str) -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # A template comes with the model, from strangers: it runs in the sandbox.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now(UTC).strftime(form)
    return environment.from_string(template)


def _refuse(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


def open_tokenizer(
    path: Path, metadata: Mapping[str, Any], end_tokens: Iterable[int] = ()
) -> Tokenizer:
    """Return the tokenizer of a model.

    Args:
        path: the folder or GGUF file.
        metadata: the head of the GGUF file, or empty.
        end_tokens: ids that end an answer, from the model's configuration.

    Raises:
        SetupError: there is none, or it is of a kind that is not built.
    """
    return _from_gguf(metadata, end_tokens) if metadata else _from_folder(path, end_tokens)


def _ends(backend: Backend, given: Iterable[int]) -> frozenset[int]:
    known = (backend.token_to_id(name) for name in ENDS)
    return frozenset(given) | {token for token in known if token is not None}


# --- a folder ------------------------------------------------------------------------


def _from_folder(folder: Path, end_tokens: Iterable[int]) -> Tokenizer:
    if not (folder / "tokenizer.json").is_file():
        raise SetupError(f"{folder}: no tokenizer.json")
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.no_truncation()
    backend.no_padding()
    settings = folder / "tokenizer_config.json"
    config = json.loads(settings.read_text()) if settings.is_file() else {}
    template = config.get("chat_template") or ""
    if isinstance(template, list):  # several by name
        named = {each["name"]: each["template"] for each in template}
        template = named.get("default", "")
    beside = folder / "chat_template.jinja"
    if not template and beside.is_file():
        template = beside.read_text()
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    specials = {name: _text(config[name]) for name in names if config.get(name)}
    return Tokenizer(
        backend=backend,
        template=template,
        specials=specials,
        ends=_ends(backend, end_tokens),
        adds_start=bool(config.get("add_bos_token", False)),
    )


def _text(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


# --- GGUF ----------------------------------------------------------------------------


def _from_gguf(metadata: Mapping[str, Any], end_tokens: Iterable[int]) -> Tokenizer:
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise SetupError(f"GGUF tokenizer {kind!r}: only byte-level BPE ('gpt2') is built")
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    vocabulary = {token: at for at, token in enumerate(tokens)}
    backend = Backend(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=_ignores(metadata)))
    backend.pre_tokenizer = _cuts(str(metadata.get("tokenizer.ggml.pre", "gpt-2")))
    backend.decoder = decoders.ByteLevel()
    types = metadata.get("tokenizer.ggml.token_type", [])
    _add(backend, [token for token, type_ in zip(tokens, types, strict=False) if type_ == CONTROL])
    _add(
        backend,
        [token for token, type_ in zip(tokens, types, strict=False) if type_ == USER_DEFINED],
        is_special=False,
    )
    keys = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()}
    return Tokenizer(
        backend=backend,
        template=str(metadata.get("tokenizer.chat_template", "")),
        specials={name: tokens[id_] for name, id_ in ids.items() if id_ is not None},
        ends=_ends(backend, end_tokens),
        adds_start=bool(metadata.get("tokenizer.ggml.add_bos_token", False)),
    )


def _ignores(metadata: Mapping[str, Any]) -> bool:
    """Llama 3 takes a whole word that is in the vocabulary without asking the merges."""
    return str(metadata.get("tokenizer.ggml.pre", "")) in ("llama-bpe", "llama3")


def _add(backend: Backend, tokens: list[str], *, is_special: bool = True) -> None:
    added = [AddedToken(token, special=is_special, normalized=False) for token in tokens]
    (backend.add_special_tokens if is_special else backend.add_tokens)(added)


def _cuts(name: str) -> Any:
    """Return the pre-tokenizer that llama.cpp calls by this name; GPT-2's where it is not known."""
    if name in REGEXES:
        split = pre_tokenizers.Split(Regex(REGEXES[name]), behavior="isolated")
        plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, plain])
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name in SPLITS_DIGITS:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    return words
