"""The demo's mesh on its own models and index: what a person who starts three nodes sees.

One test, as starting three nodes costs more than all that it asks. Skipped where the
models or the index are not fetched: `make setup` does that.
"""

from __future__ import annotations

import asyncio
import signal
import time
import tomllib
from pathlib import Path

import pytest

from mesh.errors import SetupError
from mesh.index.folder import index_folder
from mesh.models import sources
from tests.support.processes import processes, wait_ready, wait_seen

# Alone on two cores it takes half a minute; beside other work it may take longer than most tests.
pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(180)]

KIND = 'kind  = "generate"\n'
TOPOLOGY = (Path(__file__).parents[2] / "config/topology.toml").read_text()
TOPOLOGY = TOPOLOGY.replace(KIND, KIND + "content_chars_max = 80\n")  # shorter
READY_S = 60.0  # alone on a machine it takes 10; others may be at work beside it
ASK = "/v1/pipelines/ask"
QUESTIONS = (
    "How do I copy a whole directory tree?",
    "How do I encode bytes as base64?",
    "How do I count how often each word occurs?",
    "How do I read a CSV file?",
    "How do I compute a SHA-256 hash?",
    "How do I join two paths?",
    "How do I find all matches of a regular expression?",
    "How can I get the current working directory?",
    "How do I parse JSON?",
    "How do I make a random choice from a list?",
    "How do I compare two files line by line?",
    "How do I delete a directory with everything in it?",
    "How do I shuffle a list?",
    "How do I get the largest of some numbers?",
    "How do I sort a list?",
    "How do I split a path into folder and name?",
)


def why_skip() -> str:
    """Return what is missing on this machine, or ""."""
    try:
        for model in tomllib.loads(TOPOLOGY)["models"].values():
            sources.locate(model["source"], model.get("sha256", ""))
    except SetupError as error:
        return str(error)
    folder = index_folder("", sources.cache_dir())
    return "" if folder.is_dir() else f"there is no index {folder}: run  make setup"


@pytest.mark.skipif(bool(why_skip()), reason=why_skip())
def test_three_nodes_answer_alike_alone_and_together_and_outlive_a_death(tmp_path):
    """Any order of start; batches change no answer; a death is a clear error, a return is news."""

    async def main():
        async with processes(tmp_path, TOPOLOGY) as (nodes, http):
            n0, n1, n2 = nodes
            for node in (n2, n0, n1):
                await node.start()
            await wait_ready(http, nodes, READY_S)

            async def ask(node, id, question):
                body = {"request_id": id, "query": question}
                async with http.post(node.url("/query"), json=body) as response:
                    said = await response.json()
                    assert response.status == 200, said
                assert list(said) == ["request_id", "generated_response", "sentiment", "is_toxic"]
                assert said.pop("request_id") == id
                assert said["is_toxic"] in ("true", "false")
                return said

            same = [await ask(node, f"same-{node.name}", QUESTIONS[0]) for node in nodes]
            assert same[0] == same[1] == same[2]
            assert "shutil.copytree" in same[0]["generated_response"]
            alone = [await ask(n0, f"alone-{at}", text) for at, text in enumerate(QUESTIONS)]
            together = await asyncio.gather(
                *(ask(n0, f"together-{at}", text) for at, text in enumerate(QUESTIONS))
            )
            assert together == alone
            for node, role in ((n0, "embed"), (n1, "rerank")):
                async with http.get(node.url("/stats")) as response:
                    sizes = (await response.json())["roles"][role]["batch_sizes"]
                assert max(map(int, sizes)) > 1, (role, sizes)
            async with http.get(n2.url("/stats")) as response:
                engine = (await response.json())["roles"]["generate"]["engine"]
            assert engine["rows_per_step_max"] > 1

            body = {"query": "Tell me everything about files.", "stream": True}
            async with http.post(n0.url(ASK), json=body) as response:
                async for line in response.content:
                    if line == b"event: token\n":
                        break
                n2.kill(signal.SIGKILL)
                died_s = time.monotonic()
                rest = (await response.content.read()).decode()
            assert "event: error" in rest
            assert "node 'n2' failed" in rest
            await n2.wait()
            for node in (n0, n1):
                await wait_seen(http, node, [n0, n1])
            assert time.monotonic() - died_s < 10.0

            await n2.start()
            await wait_seen(http, n0, nodes, READY_S)
            assert await ask(n0, "after", QUESTIONS[1]) == alone[1]

    asyncio.run(main())
