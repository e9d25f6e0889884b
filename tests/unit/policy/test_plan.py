"""A stage starts when its fields exist, once, whatever the order in which others finish."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import Unprocessable
from mesh.policy.plan import STAGES_MAX, Graph, Plan, problems
from mesh.settings.topology import Pipeline, Stage


def stage(name, take=(), give=(), role="r"):
    """Build a stage whose role uses the pipeline's own names."""
    return Stage(name=name, role=role, take={f: f for f in take}, give={f: f for f in give})


def pipeline(*stages, input=("a",), output=()):
    return Pipeline(input=tuple(input), output=tuple(output), stages=stages)


DIAMOND = pipeline(
    stage("left", ["a"], ["l"]),
    stage("right", ["a"], ["r"]),
    stage("join", ["l", "r"], ["z"]),
    output=["z"],
)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (pipeline(), "at least one stage"),
        (pipeline(stage("s", ["b"])), "takes 'b', which nothing gives; there are 'a'"),
        (
            pipeline(stage("s", [], ["x"]), stage("t", [], ["x"])),
            "'x' is given by stage 's' and by stage 't'",
        ),
        (pipeline(stage("s", ["a"], ["a"])), "'a' is given by the input and by stage 's'"),
        (pipeline(stage("s"), output=["z"]), "output 'z' is given by no stage"),
        (pipeline(stage("s", role="nobody")), "role 'nobody', which is not in [roles]"),
        (pipeline(stage("s"), stage("s")), "two stages are called 's'"),
        (pipeline(stage("s"), input=["a", "a"]), "input 'a' is named twice"),
        (pipeline(stage("s", ["y"], ["x"]), stage("t", ["x"], ["y"])), "in a circle: "),
        (pipeline(stage("s", ["x"], ["x"])), "in a circle: s -> s"),
        (pipeline(*(stage(str(n)) for n in range(STAGES_MAX + 1))), "65 stages are more than 64"),
    ],
)
def test_each_fault_is_named(wrong, words):
    assert any(words in line for line in problems(wrong, {"r"})), problems(wrong, {"r"})


def test_all_faults_are_reported_at_once():
    wrong = pipeline(stage("s", ["b"], role="x"), stage("s", ["c"]), output=["z"])
    assert len(problems(wrong, {"r"})) == 5


def test_a_sound_graph_has_no_problem():
    assert problems(DIAMOND, {"r"}) == []


def test_independent_stages_start_together_and_the_join_waits_for_both():
    plan = Plan(Graph(DIAMOND))
    assert plan.begin({"a": 1}) == [0, 1]
    assert plan.finish(1, {"r": 3}) == []
    assert plan.finish(0, {"l": 2}) == [2]
    assert plan.item(2) == {"l": 2, "r": 3}
    assert plan.finish(2, {"z": 5}) == []
    assert plan.is_done
    assert plan.output() == {"z": 5}


def test_fields_are_renamed_on_both_sides():
    only = Stage(name="s", role="r", take={"text": "query"}, give={"vector": "query_vector"})
    plan = Plan(Graph(pipeline(only, input=["query"], output=["query_vector"])))
    assert plan.begin({"query": "q"}) == [0]
    assert plan.item(0) == {"text": "q"}
    plan.finish(0, {"vector": [1.0], "unasked": 2})
    assert plan.output() == {"query_vector": [1.0]}


def test_one_field_taken_under_two_names_counts_once():
    twice = Stage(name="s", role="r", take={"x": "a", "y": "a"})
    assert Plan(Graph(pipeline(twice))).begin({"a": 1}) == [0]


def test_a_promised_field_that_does_not_come_is_an_error():
    plan = Plan(Graph(pipeline(stage("s", ["a"], ["b"]))))
    plan.begin({"a": 1})
    with pytest.raises(KeyError, match="b"):
        plan.finish(0, {})


@pytest.mark.parametrize(
    ("fields", "words"), [({}, "missing 'a'"), ({"a": 1, "b": 2}, "unknown 'b'; expected 'a'")]
)
def test_wrong_inputs_are_named(fields, words):
    with pytest.raises(Unprocessable, match=words):
        Graph(DIAMOND).check_input(fields)


@st.composite
def graphs(draw):
    """Draw a pipeline without circles: each stage takes from what stands before it."""
    fields, stages = ["a"], []
    for n in range(draw(st.integers(1, 8))):
        take = draw(st.sets(st.sampled_from(fields)))
        give = [f"f{n}_{m}" for m in range(draw(st.integers(0, 2)))]
        stages.append(stage(f"s{n}", sorted(take), give))
        fields += give
    order = draw(st.permutations(stages))
    return pipeline(*order, output=draw(st.sets(st.sampled_from(fields))))


@given(graphs(), st.integers())
def test_every_stage_runs_once_in_any_order_of_finishing(drawn, seed):
    """All stages run, each once and with all of its fields, and the output is complete."""
    assert problems(drawn, {"r"}) == []
    rng, plan = Random(seed), Plan(Graph(drawn))
    running, ran = plan.begin({"a": 0}), []
    while running:
        index = running.pop(rng.randrange(len(running)))
        assert set(plan.item(index)) == set(drawn.stages[index].take)
        ran.append(index)
        running += plan.finish(index, dict.fromkeys(drawn.stages[index].give, index))
        plan.check()
    assert sorted(ran) == list(range(len(drawn.stages)))
    assert plan.is_done
    assert set(plan.output()) == set(drawn.output)


@given(st.permutations("stuvw"))
def test_a_circle_is_found_from_wherever_it_is_looked_at(names):
    """A ring of stages is reported whatever their order in the file."""
    ring = [stage(n, [f"f{i}"], [f"f{(i + 1) % 5}"]) for i, n in enumerate(sorted(names))]
    by_name = {s.name: s for s in ring}
    found = problems(pipeline(*(by_name[n] for n in names)), {"r"})
    assert len(found) == 1
    assert "circle" in found[0]
