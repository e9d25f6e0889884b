"""A tokenizer from a GGUF head cuts as the original does, and templates run in a sandbox."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from mesh.errors import SetupError, Unprocessable
from mesh.models.tokenizer import open_tokenizer

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' "
    "+ message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEXTS = ["The year 2024, at 3:07!", "naïve café 🤖 日本", "  two  spaces\n\nand lines", "don't"]


@pytest.fixture(scope="module")
def original():
    """Return a byte-level BPE as SmolLM2's: digits one by one."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS * 3, trainer)
    return backend


def head(original, **changes):
    parts = json.loads(original.to_str())["model"]
    tokens = sorted(parts["vocab"], key=parts["vocab"].get)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(tokens) - 3),
        "tokenizer.ggml.merges": [" ".join(merge) for merge in parts["merges"]],
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": TEMPLATE,
    } | changes


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_cut_as_by_the_original(tmp_path, original, text):
    tokenizer = open_tokenizer(tmp_path / "m.gguf", head(original), [2])
    assert tokenizer.encode(text) == original.encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_folder_and_a_head_agree(tmp_path, original):
    original.save(str(tmp_path / "tokenizer.json"))
    config = {"chat_template": TEMPLATE, "eos_token": {"content": "<|im_end|>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    folder = open_tokenizer(tmp_path, {}, [2])
    gguf = open_tokenizer(tmp_path / "m.gguf", head(original), [2])
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi 42"}]
    prompt = folder.chat(messages)
    assert prompt == gguf.chat(messages)
    assert prompt.endswith("<|im_start|>assistant\n")
    assert folder.encode(prompt, is_chat=True) == gguf.encode(prompt, is_chat=True)
    assert folder.encode(prompt)[0] == 1, "the start of a message is one token"
    assert folder.ends == gguf.ends == {0, 2}


def test_end_tokens_have_no_text(tmp_path, original):
    tokenizer = open_tokenizer(tmp_path / "m.gguf", head(original), [2])
    assert tokenizer.decode([*tokenizer.encode("don't"), 2]) == "don't"


def test_a_start_token_comes_first_where_the_model_wants_one(tmp_path, original):
    wishes = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 1}
    tokenizer = open_tokenizer(tmp_path / "m.gguf", head(original, **wishes), [2])
    assert tokenizer.encode("a")[0] == 1
    assert tokenizer.encode("a", is_chat=True)[0] != 1


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('only users') }}", "{{ ''.__class__.__mro__ }}", "{% if %}"],
)
def test_a_template_that_fails_or_breaks_out_is_refused(tmp_path, original, template):
    changes = {"tokenizer.chat_template": template}
    tokenizer = open_tokenizer(tmp_path / "m.gguf", head(original, **changes), [2])
    with pytest.raises(Unprocessable, match="chat template"):
        tokenizer.chat([{"role": "user", "content": "x"}])


def test_what_cannot_be_built_is_said(tmp_path, original):
    with pytest.raises(SetupError, match=r"no tokenizer\.json"):
        open_tokenizer(tmp_path, {})
    with pytest.raises(SetupError, match="GGUF tokenizer 'llama'"):
        open_tokenizer(tmp_path, head(original, **{"tokenizer.ggml.model": "llama"}))
