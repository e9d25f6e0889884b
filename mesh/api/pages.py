"""The pages that a person opens: the console, and the list of doors.

Shell: reads the page's files once, at the start. There is a fixed table of files,
no path is ever joined with what a caller sends.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from aiohttp import web

from mesh.api import answer, describe

# Everything comes from this node, nothing is inline, and no string can become markup.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    **answer.HEADERS,
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_FILES = {
    "/": ("index.html", "text/html"),
    "/console.js": ("console.js", "text/javascript"),
    "/console.css": ("console.css", "text/css"),
}


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    folder = Path(__file__).parent / "console"
    pages = [
        web.get(path, _file(folder.joinpath(name).read_bytes(), kind))
        for path, (name, kind) in _FILES.items()
    ]
    return [*pages, web.get("/docs", docs), web.get("/openapi.json", openapi)]


async def openapi(request: web.Request) -> web.Response:
    """Return the description of every door, OpenAPI 3.1."""
    return answer.json(describe.openapi(request.app))


async def docs(request: web.Request) -> web.Response:
    """List every door for people."""
    rows = []
    for path, operations in describe.openapi(request.app)["paths"].items():
        for method, operation in operations.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            fields = ", ".join(body.get("schema", {}).get("properties", {}))
            what = _CODE.sub(r"<code>\1</code>", escape(operation["summary"]))
            rows.append(
                f'<tr><td>{method.upper()}<td class="path">{escape(path)}'
                f'<td>{what} <span class="soft">{escape(fields)}</span>'
            )
    text = _DOCS.replace("{rows}", "\n".join(rows))
    return web.Response(text=text, content_type="text/html", headers=_HEADERS)


_CODE = re.compile("`([^`]+)`")
_DOCS = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Doors of this mesh</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/console.css">
<header>
<h1>Doors of this mesh</h1>
<nav><a href="/">Console</a><a href="/openapi.json">OpenAPI</a></nav>
</header>
<main>
<table>
<thead><tr><th>Method<th>Path<th>What it does, and the fields of its body</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</main>
</html>
"""


def _file(body: bytes, kind: str):  # type: ignore[no-untyped-def]
    async def file(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=_HEADERS)

    file.__doc__ = "Return a file of the console."
    return file
