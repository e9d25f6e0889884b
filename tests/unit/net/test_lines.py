"""JSON lines on the peer port, as typed into `nc`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from mesh.errors import NotFound
from mesh.net import lines
from mesh.net.lines import LinesPeer
from mesh.net.peers import Peers, Reply
from mesh.settings.schema import Limits
from mesh.wire.lines import LineReader
from mesh.wire.messages import Answer, Call

pytestmark = pytest.mark.live

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def process(call: Call, reply: Reply) -> Answer:
    method, params = call.fields["method"], call.fields["params"]
    if method == "fail":
        raise NotFound("no such thing")
    if method == "crash":
        raise ValueError("a bug")
    if method == "slow":
        await asyncio.sleep(0.02)
    return Answer({"method": method, **params})


def talk(scenario: Talk, secret: str = "") -> None:
    async def main() -> None:
        server = Peers(mesh_name="demo", node="n0", secret=secret, limits=Limits())
        server.serve("lines", process)
        host, port = (await server.listen("127.0.0.1:0")).split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            await scenario(reader, writer)
        finally:
            writer.close()
            await server.aclose()

    asyncio.run(asyncio.wait_for(main(), 10))


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: bytes) -> dict:
    writer.write(line + b"\n")
    return json.loads(await reader.readline())


def test_requests_are_answered_with_their_ids() -> None:
    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for index in range(3):
            line = json.dumps({"id": index, "method": "process", "params": {"x": index}}).encode()
            expected = {"id": index, "result": {"method": "process", "x": index}}
            assert expected == await ask(reader, writer, line)

    talk(scenario)


def test_a_quick_request_passes_a_slow_one() -> None:
    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"id":"1","method":"slow"}\n{"id":"2","method":"quick"}\n')
        assert ["2", "1"] == [json.loads(await reader.readline())["id"] for _ in range(2)]

    talk(scenario)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"{nonsense", {"id": None, "error": "invalid_json: "}),
        (b'{"id":"1","method":"fail"}', {"id": "1", "error": "not_found: no such thing"}),
        (b'{"id":"1","method":"crash"}', {"id": "1", "error": "role_error: ValueError: a bug"}),
        (b'{"id":"1"}', {"id": "1", "error": "invalid_request: "}),
    ],
)
def test_errors_are_answered_and_the_connection_stays(line: bytes, expected: dict) -> None:
    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = await ask(reader, writer, line)
        assert expected["id"] == answer["id"]
        assert answer["error"].startswith(expected["error"])
        assert "result" in await ask(reader, writer, b'{"id":"2","method":"process"}')

    talk(scenario)


def test_lines_are_off_in_a_mesh_with_a_secret() -> None:
    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = await ask(reader, writer, b'{"id":"1","method":"process"}')
        assert answer["error"].startswith("unauthorized: ")
        assert b"" == await reader.read()

    talk(scenario, secret="s")


def test_a_line_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LineReader", lambda: LineReader(1000))

    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"{" + b" " * 2000)
        assert json.loads(await reader.readline())["error"].startswith("too_large: ")
        assert b"" == await reader.read()

    talk(scenario)


def test_a_flood_of_requests_is_answered_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "REQUESTS_MAX", 4)

    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for index in range(300):
            writer.write(b'{"id":%d,"method":"process"}\n' % index)
        answers = [json.loads(await reader.readline()) for _ in range(300)]
        assert set(range(300)) == {answer["id"] for answer in answers}

    talk(scenario)


def test_who_has_said_all_is_answered_before_the_end() -> None:
    """As `printf … | nc` does: its input ends with the last line."""

    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"id":1,"method":"slow"}\n{"id":2,"method":"process"}\n')
        writer.write_eof()
        lines_told = (await reader.read()).splitlines()
        assert [2, 1] == [json.loads(line)["id"] for line in lines_told]

    talk(scenario)


@pytest.mark.parametrize("rest", [b"", b'{"id":'])
def test_a_connection_that_asks_nothing_is_closed(rest: bytes) -> None:
    """Half a line holds no socket either; a request that is under way does."""

    async def main() -> None:
        server = Peers(mesh_name="demo", node="n0", secret="", limits=Limits())
        server.serve("lines", process)
        host, port = (await server.listen("127.0.0.1:0")).split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b'{"id":1,"method":"slow"}\n' + rest)
        while not (found := [x for x in server._others if isinstance(x, LinesPeer)]):  # noqa: ASYNC110
            await asyncio.sleep(0)
        (peer,) = found
        peer._since_s -= lines.IDLE_S
        server._on_tick()
        assert 1 == json.loads(await reader.readline())["id"]
        server._on_tick()
        peer._since_s -= lines.IDLE_S
        server._on_tick()
        assert b"" == await reader.read()
        assert {"idle": 1} == +server.endings
        writer.close()
        await server.aclose()

    asyncio.run(asyncio.wait_for(main(), 10))
