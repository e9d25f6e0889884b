"""How long a chain waits for a step, and how many parts of models a node takes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from mesh.errors import RoleError
from mesh.flow import stages
from mesh.llm import chain

CASES = [
    # usual step, waits, silent stages; what is said of it
    (0.0, chain.SILENT_S_UNKNOWN - 0.1, ["n1"], ""),
    (0.0, chain.SILENT_S_UNKNOWN, ["n1"], "no answer"),
    (0.01, chain.SILENT_S_MIN - 0.1, ["n1"], ""),
    (0.01, chain.SILENT_S_MIN, ["n1"], "no answer"),
    (1.0, chain.SILENT_TIMES - 0.1, ["n1"], ""),
    (1.0, chain.SILENT_TIMES, ["n1"], "no answer"),
    (0.01, chain.STUCK_S_MIN, [], ""),
    (0.01, chain.STUCK_S_MIN + 0.1, [], "does not come back"),
    (1.0, chain.STUCK_TIMES * chain.SILENT_TIMES, [], ""),
    (1.0, chain.STUCK_TIMES * chain.SILENT_TIMES + 0.1, [], "does not come back"),
]


@pytest.mark.parametrize(("usual_s", "waits_s", "silent", "said"), CASES)
def test_patience_with_a_step_follows_from_what_is_usual(usual_s, waits_s, silent, said):
    """Silent stages are left after twenty usual steps, slow ones after a hundred."""

    async def who() -> list[str]:
        return silent

    relay = SimpleNamespace(waits_s=lambda: waits_s, usual_s=lambda: usual_s)
    mine = SimpleNamespace(_relay=relay, _silent=who)
    if said:
        with pytest.raises(chain.Broken, match=said):
            asyncio.run(chain.Chain._look_for_silence(mine))
    else:
        asyncio.run(chain.Chain._look_for_silence(mine))


def test_who_failed_is_left_out_for_a_while(monkeypatch):
    """Unless it is this node itself, which comes first."""
    here, there = SimpleNamespace(name="n0"), SimpleNamespace(name="n1")
    mine = SimpleNamespace(
        _links=SimpleNamespace(candidates=lambda: [here, there]),
        _avoid={"n0": 99.0, "n1": chain.AVOID_S},
    )
    for now_s, expected in ((0.0, [here]), (chain.AVOID_S, [here, there])):
        monkeypatch.setattr(chain.time, "monotonic", lambda now_s=now_s: now_s)
        assert expected == chain.Chain._usable(mine)


def test_a_node_holds_so_many_parts_of_models(monkeypatch):
    monkeypatch.setattr(stages, "HELD_MAX", 0)
    monkeypatch.setattr(stages, "read_order", lambda fields: None)
    mine = SimpleNamespace(_source=lambda role: "", _held={}, _node="n0", _forms=None)
    with pytest.raises(RoleError, match="holds 0 parts, the limit"):
        asyncio.run(stages.Stages._hold(mine, "r", "i", 1, {}, None))
