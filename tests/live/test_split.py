"""A model over three nodes says what the whole says, though nodes die, stop and lead anew."""

from __future__ import annotations

import asyncio

import pytest

from mesh.wire.messages import Call
from tests.live.split_chaos import campaign
from tests.support import live
from tests.support.decoders import GPT2, write_talker
from tests.support.live import url
from tests.support.split import answers, questions, topology, write_model

pytestmark = [pytest.mark.live, pytest.mark.slow]
FEW = questions(8, tokens=24)


def names(count):
    return [f"n{at}" for at in range(count)]


def parts_of(node):
    engine = node.local.statistics()["generate"].get("engine", {})
    return engine.get("chain", {}).get("nodes", ()) if engine.get("epoch") else ()


async def through(folder, text, count):
    """Return answers through the last node of a mesh, and each node's parts."""
    folder.mkdir()
    async with live.mesh(folder, text, count) as (nodes, _):
        if count > 1:
            await live.wait_until(lambda: len(parts_of(nodes[0])) == count)
        found = await answers(url(nodes[-1], ""), FEW)
        role = nodes[0].local.statistics()["generate"]
        return found, role, [node.stages.statistics() for node in nodes]


def test_two_three_and_four_nodes_say_what_one_says(tmp_path):
    """Each holds its layers, and no others: together the whole model."""
    path = write_model(tmp_path / "model")

    async def main():
        expected, role, _ = await through(tmp_path / "one", topology(path, ["n0"], None), 1)
        layer_bytes = None
        for count, layers in ((2, "auto"), (3, [1, 2, 3]), (4, [3, 1, 1, 1])):
            text = topology(path, names(count), layers)
            found, role, held = await through(tmp_path / str(count), text, count)
            assert expected == found
            parts = role["engine"]["chain"]["nodes"]
            assert [part["node"] for part in parts] == names(count)
            assert [part["layers"] for part in parts[1:]] == [
                part["layers"] for each in held for part in each.values()
            ]
            total = sum(part["bytes"] for part in parts)
            assert layer_bytes in (None, total)
            layer_bytes = total
            assert sum(part["layers"][1] - part["layers"][0] for part in parts) == 6
            assert role["engine"]["chain"]["bytes"] > total  # both ends are the head's
            assert role["engine"]["recoveries"] == 0
            assert role["engine"]["kv_blocks_used"] == 0

    asyncio.run(main())


def test_gpt2_over_three_nodes_by_hand(tmp_path):
    """The layout of config/gpt, with a tiny random GPT-2."""
    path = write_talker(tmp_path / "model", base=GPT2 | {"n_positions": 1024})

    async def main():
        expected, *_ = await through(tmp_path / "one", topology(path, ["n0"], None), 1)
        text = topology(path, names(3), [1, 1, 1])
        found, *_ = await through(tmp_path / "three", text, 3)
        assert expected == found

    asyncio.run(main())


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "bad_request"),
        ({"instance": "x" * 65, "op": "ping"}, "bad_request"),
        ({"instance": "x", "op": "dance"}, "bad_request"),
        ({"instance": "x", "op": "ping", "epoch": -1}, "bad_request"),
        ({"instance": "x", "op": "ping"}, "not_found"),
        ({"instance": "x", "op": "run", "epoch": 1}, "bad_request"),
        ({"instance": "x", "op": "hold", "first": 0, "last": 99}, "bad_request"),
    ],
)
def test_a_stage_refuses_what_cannot_be_meant(tmp_path, fields, code):
    path = write_model(tmp_path / "model", layers=2)

    async def main():
        async with live.mesh(tmp_path, topology(path, names(2)), 2) as (nodes, _):
            call = Call(to="stage/generate", fields=fields)
            with pytest.raises(Exception) as caught:  # noqa: PT011 - named by its code
                await nodes[0].peers.call(nodes[1].peer_address, call)
            assert code == caught.value.code

    asyncio.run(main())


def test_accidents_change_no_answer(tmp_path):
    """Stages and heads are killed or stopped while eight answers stream."""
    asyncio.run(campaign(tmp_path, times=2, seed=11, heads=True))


def test_a_slow_stage_is_replaced_by_a_spare_and_no_token_changes(tmp_path):
    """One stage takes 50 ms more for each step: seconds later it has no part any more."""
    path, asked = write_model(tmp_path / "model"), questions(4, tokens=240)

    async def main():
        text = topology(path, names(4), [2, 2, 2])
        async with live.mesh(tmp_path, text, 4) as (nodes, _):
            await live.wait_until(lambda: len(parts_of(nodes[0])) == 3)
            calm = await answers(url(nodes[-1], ""), asked)
            assert [part["node"] for part in parts_of(nodes[0])] == names(3)
            (held,) = nodes[1].stages._held.values()
            held.thread.delay_s = 0.05
            found = await answers(url(nodes[-1], ""), asked)
            engine = nodes[0].local.statistics()["generate"]["engine"]
            assert found == calm
            assert engine["recoveries"] == 1
            assert [part["node"] for part in engine["chain"]["nodes"]] == ["n0", "n2", "n3"]
            assert engine["chain"]["slow"].keys() == {"n1"}

    asyncio.run(main())
