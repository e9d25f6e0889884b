"""Each side is the same topology but for what its name says."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.compare.measure import proportioned, said
from tools.compare.sides import SETS, Side, put, sides_of, toml

TOPOLOGY = {
    "mesh": {"name": "demo", "nodes": ["n0", "n1"]},
    "roles": {
        "embed": {"kind": "embed", "nodes": ["n0"], "batch": {"items_max": 16}},
        "generate": {"kind": "generate", "nodes": ["n0", "n1"], "layers": "auto"},
    },
    "pipelines": {"ask": {"input": ["q"], "stages": [{"name": "embed", "take": {"a": "q"}}]}},
}
PROJECT = Path(__file__).resolve().parents[4]

VALUES = st.recursive(
    st.booleans() | st.integers(-(2**62), 2**62) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(max_examples=30)
@given(document=st.dictionaries(st.text(max_size=5), st.dictionaries(st.text(max_size=5), VALUES)))
def test_written_toml_reads_back(document):
    """Whatever a topology may hold: reading what was written gives the same."""
    assert document == tomllib.loads(toml(document))


def test_the_projects_own_topology_reads_back():
    document = tomllib.loads((PROJECT / "config" / "topology.toml").read_text())
    assert document == tomllib.loads(toml(document))


def test_one_node_holds_every_role_whole():
    before = copy.deepcopy(TOPOLOGY)
    plain, alone, whole = sides_of(TOPOLOGY, ["n0", "n1"])
    assert before == TOPOLOGY == whole.topology
    assert {"n0"} == {node for role in alone.topology["roles"].values() for node in role["nodes"]}
    assert "layers" not in alone.topology["roles"]["generate"]
    assert ("n0",) == plain.nodes == alone.nodes


def test_unbatched_computes_each_item_alone():
    roles = sides_of(TOPOLOGY, ["n0", "n1"])[0].topology["roles"]
    assert 1 == roles["embed"]["batch"]["items_max"]
    assert 1 == roles["generate"]["sequences_max"]


def test_a_row_changes_what_it_names():
    row = "small: roles.*.batch.items_max=4, mesh.name=other"
    side = sides_of(TOPOLOGY, ["n0", "n1"], [row])[-1]
    assert "small" == side.name
    assert "other" == side.topology["mesh"]["name"]
    assert all(role["batch"]["items_max"] == 4 for role in side.topology["roles"].values())


@pytest.mark.parametrize("row", ["no colon", ": a=1", "name: *.x=1=2, nowhere.*.x=1"])
def test_a_row_that_cannot_be_read_says_so(row):
    with pytest.raises(ValueError, match=r"row|nothing"):
        sides_of({"mesh": {}, "roles": {}}, ["n0"], [row])


def test_put_makes_tables_on_the_way():
    document = {}
    put(document, "a.b.c", 1)
    assert {"a": {"b": {"c": 1}}} == document


PROJECTS_OWN = tomllib.loads((PROJECT / "config" / "topology.toml").read_text())


@pytest.mark.parametrize("name", SETS)
def test_the_known_rows_change_the_projects_own_topology(name):
    """Each is another topology, is set against a side that is there, and can be written."""
    nodes = ["n0", "n1", "n2"]
    before = copy.deepcopy(PROJECTS_OWN)
    sides = sides_of(PROJECTS_OWN, nodes, sets=[name])
    assert before == PROJECTS_OWN
    for side in sides[3:]:
        assert side.topology != PROJECTS_OWN
        assert side.against in {one.name for one in sides}
        assert side.topology == tomllib.loads(toml(side.topology))


def test_hedging_differs_only_in_whether_a_call_may_be_asked_twice():
    *_, once, hedged = sides_of(PROJECTS_OWN, ["n0", "n1", "n2"], sets=["hedging"])
    assert ["n1", "n2"] == hedged.topology["roles"]["rerank"]["nodes"]
    assert {"embed", "retrieve", "rerank"} == hedged.topology["roles"].keys()
    once.topology["roles"]["rerank"]["kind"] = hedged.topology["roles"]["rerank"]["kind"]
    assert once.topology == hedged.topology


def test_protocols_differ_only_in_how_they_ask():
    *_, by_http, by_lines = sides_of(PROJECTS_OWN, ["n0", "n1", "n2"], sets=["protocols"])
    assert (False, True) == (by_http.is_by_lines, by_lines.is_by_lines)
    assert by_http.topology == by_lines.topology
    assert by_http.name == by_http.against == by_lines.against


def test_rows_that_are_not_known_say_what_is():
    with pytest.raises(ValueError, match="batches"):
        sides_of(TOPOLOGY, ["n0"], sets=["nope"])
    with pytest.raises(ValueError, match="hedging"):
        sides_of(TOPOLOGY, ["n0"], sets=["hedging"])


def test_a_result_is_set_in_proportion_to_its_own_side():
    sides = [Side("distributed", {}, ()), Side("a", {}, ()), Side("b", {}, (), against="gone")]
    results = [
        {"side": name, "concurrent": 1, "throughput_median": rate}
        for name, rate in (("distributed", 2.0), ("a", 3.0), ("b", 4.0))
    ]
    assert [1.0, 1.5, None] == [one["of"] for one in proportioned(sides, results)]


def test_answers_are_compared_without_their_scores():
    answer = {"answer": "a", "sources": [{"title": "t", "score": 1.25}], "is_toxic": False}
    assert {"answer": "a", "sources": [{"title": "t"}], "is_toxic": False} == said(answer)
