"""Whatever comes in at a door gets the right status, and leaves nothing behind on any node."""

from __future__ import annotations

import asyncio
import io
import json

import aiohttp
import pytest
from aiohttp import web

from mesh.settings.schema import Limits, Security
from tests.support.live import mesh, url, wait_idle, wait_until
from tests.support.roles import Flood, Spell

pytestmark = pytest.mark.live

ASK = "/v1/pipelines/ask"


def test_three_nodes_answer_a_pipeline_from_every_door(tmp_path):
    async def main():
        async with mesh(tmp_path) as (nodes, http):
            for node in nodes:
                async with http.post(url(node, ASK), json={"query": "hi"}) as response:
                    body = await response.json()
                assert response.status == 200
                assert body["answer"] == "H I "
                assert [s["node"] for s in body["trace"]["stages"]] == ["n1", "n2", "n2", "n1"]
                trace = url(node, f"/v1/traces/{body['trace']['id']}")
                async with http.get(trace) as response:
                    assert await response.json() == body["trace"]
            views = [await (await http.get(url(n, "/v1/members"))).json() for n in nodes]
            named = [[(m["name"], m["status"]) for m in view["members"]] for view in views]
            assert named == [[("n0", "alive"), ("n1", "alive"), ("n2", "alive")]] * 3
            await wait_idle(nodes)

    asyncio.run(main())


BAD = [
    ("POST", ASK, b"{bad", {}, 400, "bad_request"),
    ("POST", ASK, b"", {}, 400, "bad_request"),
    ("POST", ASK, b'{"query": "\\ud800"}', {}, 400, "bad_request"),
    ("POST", ASK, b"\xff\xfe", {}, 400, "bad_request"),
    ("POST", ASK, b"[" * 5000, {}, 400, "bad_request"),
    ("POST", ASK, b"[]", {}, 422, "unprocessable"),
    ("POST", ASK, b"{}", {}, 422, "unprocessable"),
    ("POST", ASK, b'{"query": 5}', {}, 422, "unprocessable"),
    ("POST", ASK, b'{"query": null}', {}, 422, "unprocessable"),
    ("POST", ASK, b'{"query": "x", "more": 1}', {}, 422, "unprocessable"),
    ("POST", ASK, b'{"query": "x", "stream": "yes"}', {}, 422, "unprocessable"),
    ("POST", ASK, b'{"query": "x", "request_id": 7}', {}, 422, "unprocessable"),
    ("POST", ASK, b'{"query": "x"}', {"X-Deadline-Ms": "soon"}, 422, "unprocessable"),
    ("POST", ASK, b'{"query": "x"}', {"X-Deadline-Ms": "0"}, 504, "deadline_exceeded"),
    ("POST", ASK, b'{"query": "x"}', {"X-Deadline-Ms": "-5"}, 504, "deadline_exceeded"),
    ("POST", ASK, b'{"query": "x"}', {"X-Priority": "urgent"}, 422, "unprocessable"),
    ("POST", ASK, b'{"query": "x"}', {"X-Request-ID": "a b"}, 422, "unprocessable"),
    ("POST", ASK, b'{"query": "x"}', {"X-Request-ID": "a" * 129}, 422, "unprocessable"),
    ("POST", ASK, b'{"query": "x"}', {"Host": "evil.example"}, 421, "misdirected"),
    ("POST", ASK, b'{"query": "x"}', {"Origin": "http://evil.example"}, 403, "forbidden"),
    ("POST", ASK, b'{"query": "x"}', {"Origin": "http://["}, 403, "forbidden"),
    ("POST", ASK, b'{"query": "x"}', {"Host": "[::1"}, 421, "misdirected"),
    ("POST", "/v1/pipelines/nope", b"{}", {}, 404, "not_found"),
    ("POST", "/v1/roles/nope", b"{}", {}, 404, "not_found"),
    ("POST", "/v1/roles/count", b"{bad", {}, 400, "bad_request"),
    ("POST", "/v1/roles/count", b"{}", {}, 422, "unprocessable"),
    ("POST", "/v1/roles/count", b'{"text": 1}', {}, 422, "unprocessable"),
    ("POST", "/v1/roles/count", b'{"text": "x", "y": 1}', {}, 422, "unprocessable"),
    ("GET", "/v1/traces/nope", None, {}, 404, "not_found"),
    ("GET", "/nope", None, {}, 404, "not_found"),
    ("GET", "/../etc/passwd", None, {}, 404, "not_found"),
    ("DELETE", ASK, None, {}, 405, "method_not_allowed"),
    ("POST", "/stats", b"{}", {}, 405, "method_not_allowed"),
    ("POST", "/metrics", b"{}", {}, 405, "method_not_allowed"),
    ("PUT", "/query", b"{}", {}, 405, "method_not_allowed"),
    ("GET", "/v1/members", None, {"Expect": "bla"}, 417, "expectation_failed"),
    ("POST", ASK, b'{"query": "x"}', {"Expect": "bla"}, 417, "expectation_failed"),
    ("GET", "/v1/traces", None, {}, 404, "not_found"),
    ("GET", "/v1/pipelines/ask/", None, {}, 404, "not_found"),
]
QUERY_BAD = [
    (b"{bad", 400),
    (b"[]", 422),
    (b"{}", 400),
    (b'{"request_id": "a"}', 400),
    (b'{"query": "x"}', 400),
    (b'{"request_id": "", "query": "x"}', 400),
    (b'{"request_id": "a", "query": 5}', 422),
]


def test_bad_input_gets_its_status_on_every_route(tmp_path):
    async def main():
        async with mesh(tmp_path) as (nodes, http):
            for method, path, body, headers, status, code in BAD:
                asked = http.request(method, url(nodes[0], path), data=body, headers=headers)
                async with asked as response:
                    got = await response.json()
                case = (method, path, body, headers, got)
                assert (response.status, got["error"]["code"]) == (status, code), case
                assert got["error"]["message"], case
                assert got["error"]["request_id"] == response.headers["X-Request-ID"], case
            for body, status in QUERY_BAD:
                async with http.post(url(nodes[0], "/query"), data=body) as response:
                    got = await response.json()
                assert (response.status, list(got)) == (status, ["error"]), (body, got)
            await wait_idle(nodes)

    asyncio.run(main())


def test_a_body_that_is_not_packed_as_it_says_is_refused_quietly(tmp_path, caplog):
    """Whoever sends it could fill the log with tracebacks."""

    async def main():
        async with mesh(tmp_path, count=1, text=LONE) as ((node,), http):
            headers = {"Content-Encoding": "deflate", "Content-Type": "application/json"}
            async with http.post(
                url(node, "/v1/roles/count"), data=b'{"text":"x"}', headers=headers
            ) as response:
                error = (await response.json())["error"]
            assert (response.status, error["code"]) == (400, "bad_request")
            assert error["message"] == (
                "the body cannot be read: Can not decode content-encoding: deflate"
            )
            await wait_idle([node])
        assert not [record for record in caplog.records if record.exc_info]

    asyncio.run(main())


def test_body_beyond_the_limit_is_refused_with_and_without_a_length(tmp_path):
    async def chunks():
        for _ in range(40):
            yield b"x" * 65536

    async def main():
        async with mesh(tmp_path) as (nodes, http):
            paths = (ASK, "/v1/roles/count", "/query")
            for body in (lambda: io.BytesIO(b"x" * (100 << 20)), chunks):
                for path in paths:
                    status = await _status(http, url(nodes[0], path), body())
                    assert status == 413, path
            await wait_idle(nodes)

    asyncio.run(main())


async def _status(http, address, body) -> int:
    """Return the status of an upload that the server may cut short."""
    async with http.post(address, data=body) as response:
        return response.status


def test_deadline_ends_a_request_on_time_and_everywhere(tmp_path):
    async def main():
        async with mesh(tmp_path) as (nodes, http):
            for path, field in (("/v1/pipelines/slow", "query"), ("/v1/roles/slow", "text")):
                headers = {"X-Deadline-Ms": "50"}
                async with http.post(url(nodes[0], path), json={field: "x"}, headers=headers) as r:
                    body = await r.json()
                assert (r.status, body["error"]["code"]) == (504, "deadline_exceeded")
            await wait_idle(nodes)

    asyncio.run(main())


def test_stream_tells_fields_tokens_and_the_end(tmp_path):
    async def main():
        async with mesh(tmp_path) as (nodes, http):
            body = {"query": "abc", "stream": True, "request_id": "mine"}
            async with http.post(url(nodes[0], ASK), json=body) as response:
                events = _events(await response.text())
            assert response.headers["Content-Type"] == "text/event-stream"
            assert response.headers["X-Request-ID"] == "mine"
            tokens = "".join(e["text"] for name, e in events if name == "token")
            fields = {e["name"]: e["value"] for name, e in events if name == "field"}
            name, done = events[-1]
            assert tokens == "A B C "
            assert name == "done"
            assert done.pop("trace")["id"] == "mine"
            assert done == fields
            await wait_idle(nodes)

    asyncio.run(main())


def test_error_in_mid_stream_is_an_event(tmp_path):
    async def main():
        async with mesh(tmp_path) as (nodes, http):
            body = {"query": "fail", "stream": True}
            async with http.post(url(nodes[0], ASK), json=body) as response:
                events = _events(await response.text())
            assert response.status == 200
            assert events[-1][0] == "error"
            assert events[-1][1]["error"]["code"] == "role_error"
            async with http.post(url(nodes[0], ASK), json={**body, "query": 3}) as response:
                assert response.status == 422
            await wait_idle(nodes)

    asyncio.run(main())


def test_client_gone_at_the_last_byte_is_no_crash(tmp_path, monkeypatch, caplog):
    """A write meets it before the loop says that the connection is lost."""

    async def gone(_self, data=b""):
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")

    monkeypatch.setattr(web.StreamResponse, "write_eof", gone)

    async def main():
        async with mesh(tmp_path, count=1, text=LONE) as ((node,), http):
            body = {"query": "x", "stream": True}
            async with http.post(url(node, "/v1/pipelines/p"), json=body) as response:
                with pytest.raises(aiohttp.ClientPayloadError):
                    await response.read()
            await wait_idle([node])
            kept = node.parts.metrics.text().decode()
        assert 'mesh_http_errors_total{code="cancelled"} 1.0' in kept
        assert not [record for record in caplog.records if record.exc_info]

    asyncio.run(main())


def test_client_gone_in_mid_stream_frees_everything_on_every_node(tmp_path):
    async def main():
        async with mesh(tmp_path) as (nodes, http):
            body = {"query": "forever", "stream": True}
            response = await http.post(url(nodes[0], ASK), json=body)
            while b"token" not in await response.content.readany():
                pass
            assert Spell.running == 1
            response.close()
            await wait_until(lambda: Spell.running == 0)
            await wait_idle(nodes)

    asyncio.run(main())


def test_client_gone_while_it_waits_frees_everything_on_every_node(tmp_path):
    async def main():
        async with mesh(tmp_path) as (nodes, http):
            for path, body in (
                (ASK, {"query": "forever"}),
                ("/query", {"request_id": "r", "query": "forever"}),
            ):
                task = asyncio.create_task(_status(http, url(nodes[0], path), json.dumps(body)))
                await wait_until(lambda: Spell.running == 1)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await wait_until(lambda: Spell.running == 0)
                await wait_idle(nodes)

    asyncio.run(main())


def _events(text: str) -> list[tuple[str, dict]]:
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    return [(b[0].removeprefix("event: "), json.loads(b[1].removeprefix("data: "))) for b in blocks]


def test_query_keeps_its_contract_and_joins_duplicates(tmp_path):
    async def main():
        async with mesh(tmp_path) as (nodes, http):
            for node in nodes:
                asked = {"request_id": "r 1", "query": "hello"}
                async with http.post(url(node, "/query"), json=asked) as response:
                    body = await response.json()
                assert body == {
                    "request_id": "r 1",
                    "generated_response": "H E L L O ",
                    "sentiment": "H E L L O ",
                    "is_toxic": "false",
                }
            before = nodes[2].local.statistics()["spell"]["total_items"]
            same = [http.post(url(nodes[0], "/query"), json=asked) for _ in range(5)]
            answers = [await r.json() for r in await asyncio.gather(*same)]
            assert all(answer == body for answer in answers)
            assert nodes[2].local.statistics()["spell"]["total_items"] - before < 5
            await wait_idle(nodes)

    asyncio.run(main())


def test_keys_are_asked_for_everywhere_but_at_probes(tmp_path):
    async def main():
        security = Security(api_keys=("right",))
        async with mesh(tmp_path, security=security) as (nodes, http):
            for path in ("/livez", "/readyz", "/healthz"):
                assert (await http.get(url(nodes[0], path))).status == 200
            for path in ("/stats", "/metrics", "/v1/members", "/topology", "/openapi.json"):
                assert (await http.get(url(nodes[0], path))).status == 401
            for header in ("", "Bearer", "Bearer wrong", "Basic right", "Bearer rightx"):
                headers = {"Authorization": header}
                response = await http.get(url(nodes[0], "/stats"), headers=headers)
                assert response.status == 401, header
                assert response.headers["WWW-Authenticate"] == "Bearer"
            headers = {"Authorization": "Bearer right"}
            assert (await http.get(url(nodes[0], "/stats"), headers=headers)).status == 200

    asyncio.run(main())


def test_cors_is_off_until_an_origin_is_named(tmp_path):
    async def main():
        origin = {"Origin": "https://shop.example"}
        async with mesh(tmp_path, count=1, text=LONE) as (nodes, http):
            response = await http.options(url(nodes[0], "/v1/pipelines/p"), headers=origin)
            assert "Access-Control-Allow-Origin" not in response.headers
        security = Security(cors_origins=("https://shop.example",))
        async with mesh(tmp_path, count=1, text=LONE, security=security) as (nodes, http):
            response = await http.options(url(nodes[0], "/v1/pipelines/p"), headers=origin)
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Origin"] == "https://shop.example"
            address = url(nodes[0], "/v1/pipelines/p")
            response = await http.post(address, headers=origin, json={"query": "x"})
            assert response.status == 200
            assert response.headers["Access-Control-Allow-Origin"] == "https://shop.example"

    asyncio.run(main())


LONE = """
[mesh]
name = "lone"
[roles.count]
kind = "tests.support.roles:Count"
nodes = ["n0"]
[roles.slow]
kind = "tests.support.roles:Shout"
nodes = ["n0"]
sleep_s = 0.05
[pipelines.p]
input = ["query"]
output = ["n"]
[[pipelines.p.stages]]
name = "count"
role = "count"
take = { text = "query" }
give = { count = "n" }
"""


def test_full_door_says_when_to_come_back(tmp_path):
    async def main():
        limits = Limits(requests_max=1)
        async with mesh(tmp_path, count=1, text=LONE, limits=limits) as (nodes, http):
            address = url(nodes[0], "/v1/roles/slow")
            both = [http.post(address, json={"text": "x"}) for _ in range(2)]
            answers = await asyncio.gather(*both)
            assert sorted(answer.status for answer in answers) == [200, 503]
            refused = next(answer for answer in answers if answer.status == 503)
            assert int(refused.headers["Retry-After"]) >= 1
            assert (await refused.json())["error"]["code"] == "overloaded"
            await wait_idle(nodes)

    asyncio.run(main())


def test_traceparent_and_ids_are_kept(tmp_path):
    async def main():
        async with mesh(tmp_path, count=1, text=LONE) as (nodes, http):
            headers = {"X-Request-ID": "mine-1"}
            address = url(nodes[0], "/v1/pipelines/p")
            async with http.post(address, json={"query": "x"}, headers=headers) as response:
                body = await response.json()
            assert response.headers["X-Request-ID"] == "mine-1"
            assert body["trace"]["id"] == "mine-1"

    asyncio.run(main())


FLOOD = """
[mesh]
name = "flood"
[roles.flood]
kind = "tests.support.roles:Flood"
nodes = ["n1"]
"""


def test_reader_that_stops_reading_holds_nothing_past_its_deadline(tmp_path):
    async def main():
        async with mesh(tmp_path, count=2, text=FLOOD) as (nodes, http):
            body, headers = {"text": "x", "stream": True}, {"X-Deadline-Ms": "600"}
            address = url(nodes[0], "/v1/roles/flood")
            response = await http.post(address, json=body, headers=headers)
            assert response.status == 200
            await wait_until(lambda: nodes[0].admission.active == 1)
            await wait_idle(nodes)
            assert Flood.running == 0
            response.close()

    asyncio.run(main())


def test_description_lists_every_route_and_its_fields(tmp_path):
    async def main():
        async with mesh(tmp_path) as (nodes, http):
            async with http.get(url(nodes[0], "/openapi.json")) as response:
                found = await response.json()
            assert found["openapi"] == "3.1.0"
            expected = {
                "/", "/console.css", "/console.js", "/docs", "/health", "/healthz", "/livez",
                "/metrics", "/openapi.json", "/query", "/readyz", "/stats", "/topology",
                "/v1/members", "/v1/pipelines", "/v1/pipelines/ask", "/v1/pipelines/slow",
                "/v1/roles", "/v1/roles/count", "/v1/roles/shout", "/v1/roles/slow",
                "/v1/roles/spell", "/v1/traces/{id}",
            }  # fmt: skip
            assert set(found["paths"]) >= expected
            ask = found["paths"][ASK]["post"]["requestBody"]["content"]["application/json"]
            assert ask["schema"]["properties"]["query"] == {"type": "string"}
            assert ask["schema"]["required"] == ["query"]
            for path in sorted(expected):
                if "{" not in path and "get" in found["paths"][path]:
                    assert (await http.get(url(nodes[0], path))).status == 200, path

    asyncio.run(main())


def test_health_and_stats_have_what_earlier_clients_read(tmp_path):
    async def main():
        async with mesh(tmp_path) as (nodes, http):
            async with http.get(url(nodes[2], "/health")) as response:
                health = await response.json()
            assert list(health) == [
                "status", "healthy", "node", "node_id", "total_nodes", "service",
                "active_requests", "total_requests", "batch_metrics", "roles",
            ]  # fmt: skip
            assert (health["node"], health["node_id"], health["total_nodes"]) == (2, "n2", 3)
            assert health["service"] == "count+spell"
            counts = {"total_batches", "avg_batch_size", "timeout_batches", "full_batches"}
            assert set(health["batch_metrics"]) == counts
            async with http.get(url(nodes[2], "/stats")) as response:
                stats = await response.json()
            assert set(stats) >= {
                "total_requests", "num_workers", "workers", "node", "members", "ring", "roles",
                "pipelines", "peers", "process",
            }  # fmt: skip
            assert stats["num_workers"] == len(stats["workers"]) == 3
            assert abs(sum(stats["ring"]["share"].values()) - 1.0) < 0.01

    asyncio.run(main())


REPLICAS = """
[mesh]
name = "replicas"
[roles.count]
kind = "tests.support.roles:Count"
replicas = 2
[roles.shout]
kind = "tests.support.roles:Shout"
replicas = 3
"""


def test_ring_gives_out_roles_that_no_node_is_named_for(tmp_path):
    async def main():
        async with mesh(tmp_path, text=REPLICAS) as (nodes, http):
            await wait_until(lambda: sum("shout" in node.local.ready for node in nodes) == 3)
            await wait_until(lambda: sum("count" in node.local.ready for node in nodes) >= 2)
            for node in nodes:
                address = url(node, "/v1/roles/count")
                async with http.post(address, json={"text": "four"}) as response:
                    assert (await response.json())["count"] == 4
            await wait_idle(nodes)

    asyncio.run(main())
