"""Our decoder computes what `transformers` computes, however the work is cut up."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mesh.models.checkpoint import open_checkpoint
from mesh.models.decoder import Stage
from mesh.models.ends import Ends
from mesh.models.quantize import FEW_INT4
from tests.support.decoders import KINDS, LLAMA, VOCABULARY, write_decoder

PROMPT = [5, 17, 3, 88, 41, 9, 60, 2, 33]


@pytest.fixture(scope="module", params=sorted(KINDS))
def folder(request, tmp_path_factory):
    return write_decoder(tmp_path_factory.mktemp(request.param), KINDS[request.param])


def open_whole(folder, form="float32", slots=4, **options):
    checkpoint = open_checkpoint(folder)
    layers = checkpoint.architecture.layers
    stage = Stage(checkpoint, 0, layers, form=form, slots=slots, cap=192, **options)
    return stage, Ends(checkpoint, form=form)


@torch.inference_mode()
def greedy(stage, ends, prompt, count, slot=0):
    x = stage.prefill(ends.embed(prompt, range(len(prompt))), slot, 0)
    tokens = ends.best(x[-1:])
    while len(tokens) < count:
        at = len(prompt) + len(tokens) - 1
        x = stage.decode(ends.embed(tokens[-1:], [at]), stage.rows([slot], [at]))
        tokens += ends.best(x)
    return tokens


@pytest.fixture(scope="module")
def reference(folder):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


@pytest.mark.slow
@torch.inference_mode()
def test_logits_equal_those_of_transformers(folder, reference):
    stage, ends = open_whole(folder)
    tokens = torch.randint(0, VOCABULARY, (150,), generator=torch.Generator().manual_seed(1))
    x = stage.prefill(ends.embed(tokens.tolist(), range(150)), 0, 0)
    expected = reference(tokens[None]).logits[0]
    torch.testing.assert_close(ends.scores(x), expected, rtol=1e-4, atol=2e-4)


@pytest.mark.slow
@torch.inference_mode()
def test_64_greedy_tokens_equal_those_of_transformers(folder, reference):
    stage, ends = open_whole(folder)
    expected = reference.generate(
        torch.tensor([PROMPT]),
        attention_mask=torch.ones(1, len(PROMPT), dtype=torch.long),
        max_new_tokens=64,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[0, len(PROMPT) :].tolist()
    assert expected == greedy(stage, ends, PROMPT, 64)
    assert len(set(expected)) > 8, "the answer settled: it would prove little"


@torch.inference_mode()
def test_every_way_to_cut_a_prompt_gives_the_same_logits(folder):
    """Chunks of any size, rows one by one, and several rows of one sequence in a step."""
    stage, ends = open_whole(folder)
    tokens = PROMPT * 2
    x = stage.prefill(ends.embed(tokens, range(len(tokens))), 0, 0)
    expected = ends.scores(x)
    for size in (1, 2, 5, 16):
        parts = []
        for start in range(0, len(tokens), size):
            part = tokens[start : start + size]
            x = ends.embed(part, range(start, start + len(part)))
            parts.append(stage.prefill(x, 1, start))
        torch.testing.assert_close(ends.scores(torch.cat(parts)), expected, rtol=1e-4, atol=1e-4)
    positions = list(range(len(tokens)))
    step = stage.rows([2] * len(tokens), positions)
    rows = stage.decode(ends.embed(tokens, positions), step)
    torch.testing.assert_close(ends.scores(rows), expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_layers_of_two_stages_equal_those_of_one(folder):
    checkpoint = open_checkpoint(folder)
    whole, ends = open_whole(folder)
    first = Stage(checkpoint, 0, 1, form="float32", slots=1, cap=64)
    second = Stage(checkpoint, 1, 3, form="float32", slots=1, cap=64)
    x = ends.embed(PROMPT, range(len(PROMPT)))
    expected = whole.prefill(x, 0, 0)
    torch.testing.assert_close(second.prefill(first.prefill(x, 0, 0), 0, 0), expected)
    at = len(PROMPT)
    row = ends.embed([7], [at])
    expected = whole.decode(row, whole.rows([0], [at]))
    steps = first.rows([0], [at]), second.rows([0], [at])
    torch.testing.assert_close(second.decode(first.decode(row, steps[0]), steps[1]), expected)


@pytest.mark.parametrize("form", ["int4", "int8"])
@torch.inference_mode()
def test_a_row_in_company_equals_the_row_alone_bit_by_bit(folder, form):
    """Quantised, and with neighbours of other lengths, whose padding it shares."""
    stage, ends = open_whole(folder, form)
    prompts = [PROMPT[: 3 + at] * (1 + 5 * at) for at in range(4)]
    for slot, prompt in enumerate(prompts):
        stage.prefill(ends.embed(prompt, range(len(prompt))), slot, 0)
    lengths = [len(prompt) for prompt in prompts]
    x = ends.embed([1, 2, 3, 4], lengths)
    alone = [
        stage.decode(x[at : at + 1], stage.rows([at], lengths[at : at + 1])).clone()
        for at in range(4)
    ]
    together = stage.decode(x, stage.rows([0, 1, 2, 3], lengths))
    assert torch.equal(torch.cat(alone), together)
    assert torch.equal(torch.cat([ends.scores(each) for each in alone]), ends.scores(together))


@torch.inference_mode()
def test_rows_of_few_sequences_are_rounded_as_one_is(folder):
    """With several rows each, as drafts have, and more of them than the narrow form is for."""
    stage, ends = open_whole(folder, "int4")
    tokens, many = PROMPT[:6], 3
    positions = [*range(len(tokens))] * many
    x = ends.embed(tokens * many, positions)
    slots = [slot for slot in range(many) for _ in tokens]
    assert len(slots) > FEW_INT4
    together = stage.decode(x, stage.rows(slots, positions)).clone()
    each = [
        stage.decode(x[at : at + 1], stage.rows([3], [at])).clone() for at in range(len(tokens))
    ]
    assert torch.equal(together, torch.cat(each * many))


@torch.inference_mode()
def test_more_sequences_than_a_few_are_equal_within_rounding(folder):
    """Bit by bit where that is wished."""
    stage, ends = open_whole(folder, "int4", slots=FEW_INT4 + 2)
    few = list(range(FEW_INT4))
    many = [*few, FEW_INT4]
    x = ends.embed([5] * len(many), [0] * len(many))
    expected = stage.decode(x[: len(few)], stage.rows(few, [0] * len(few))).clone()
    found = stage.decode(x, stage.rows(many, [0] * len(many)))[: len(few)]
    assert float((found - expected).norm() / expected.norm()) < 0.05
    steady, _ = open_whole(folder, "int4", slots=FEW_INT4 + 2, is_steady=True)
    alone = steady.decode(x[:1], steady.rows([0], [0])).clone()
    assert torch.equal(
        steady.decode(x, steady.rows(many, [0] * len(many))), alone.expand(len(many), -1)
    )


def test_threads_that_decode_at_once_do_not_disturb_each_other(tmp_path):
    """Also where a plan moves on while another thread's does."""
    stage, ends = open_whole(write_decoder(tmp_path, LLAMA), "int4")

    @torch.inference_mode()
    def said(slots):
        found = []
        for at in range(40):
            step = stage.rows(slots, [at] * len(slots))
            found.append(stage.decode(ends.embed(slots, slots), step).clone())
        return torch.cat(found)

    alone = said([0, 1]), said([2])
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(said, ([0, 1], [2])))
    assert torch.equal(alone[0], together[0])
    assert torch.equal(alone[1], together[1])


@torch.inference_mode()
def test_without_torchscript_rows_are_the_same(folder, monkeypatch):
    stage, ends = open_whole(folder, "int4")
    x = ends.embed(PROMPT[:4], [0, 0, 5, 0])
    slots, positions = [0, 1, 1, 3], [0, 0, 5, 0]  # two runs and more
    expected = stage.decode(x, stage.rows(slots, positions)).clone()

    def script(_):
        raise RuntimeError("not here")

    monkeypatch.setattr(torch.jit, "script", script)
    plain, _ = open_whole(folder, "int4")
    assert torch.equal(plain.decode(x, plain.rows(slots, positions)), expected)


@torch.inference_mode()
def test_quantised_forms_stay_near_the_exact_one(tmp_path):
    """Random weights are the worst case for 4 bits; a real model's test is beside this one."""
    folder = write_decoder(tmp_path, LLAMA)
    x = None
    outputs = {}
    for form in ("float32", "bfloat16", "int8", "int4"):
        stage, ends = open_whole(folder, form)
        x = ends.embed(PROMPT, range(len(PROMPT)))
        outputs[form] = stage.prefill(x, 0, 0)
    expected = outputs["float32"]
    for form, bound in (("bfloat16", 0.08), ("int8", 0.1), ("int4", 0.7)):
        error = (outputs[form] - expected).norm() / expected.norm()
        assert float(error) < bound, form


@torch.inference_mode()
def test_best_is_the_largest_score(folder):
    for form in ("float32", "int8"):
        _, ends = open_whole(folder, form)
        x = torch.randn(5, 64, generator=torch.Generator().manual_seed(3))
        assert ends.scores(x).argmax(-1).tolist() == ends.best(x)
