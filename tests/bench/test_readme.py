"""The table of figures says what the results hold, each with the command that gave it."""

from __future__ import annotations

import json

from bench.__main__ import BENCHES, there
from bench.readme import READ, readme, rows

COMMAND = "python -m bench.retrieval --rounds 3"
DATA = {
    "questions": 40,
    "hits": {"dense": 33, "hybrid": 26, "reranked": 32},
    "rerank_ms": {"the index's token vectors": [4.0, 5.0, 6.0], "computed anew": [300.0]},
}


def test_a_row_carries_its_command(tmp_path):
    """The first row of a run names it, the next ones say that they are of the same."""
    saved = {"machine": {}, "command": COMMAND, "data": DATA}
    (tmp_path / "retrieval.json").write_text(json.dumps(saved))
    first, second = rows(tmp_path)
    assert ("vectors 33, hybrid 26, reranked 32", f"`{COMMAND}`") == first[1:]
    assert "5.0 ms" in second[1]
    assert "the same run" == second[2]
    assert f"`{COMMAND}` |" in readme(tmp_path)


def test_a_split_model_is_told_as_its_share_of_the_whole_one(tmp_path):
    rates = {"1 sequences": {"whole": [200.0, 210.0, 190.0], "split": [100.0], "rpc": [77.0]}}
    saved = {"machine": {}, "command": "python -m bench.split", "data": {"rates": rates}}
    (tmp_path / "split.json").write_text(json.dumps(saved))
    ((what, measured, _),) = rows(tmp_path)
    assert what.endswith(": 1 sequences")
    assert measured == "0.50 times the speed unsplit"


def test_a_bench_that_was_not_run_has_no_row(tmp_path):
    assert [] == rows(tmp_path)


def test_every_bench_is_there():
    """Those that a run of all names, and those that the table reads."""
    assert list(BENCHES) == there()
    assert READ.keys() <= BENCHES.keys()
