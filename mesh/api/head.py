"""Decides whether the head of an HTTP request is plain: a POST to a native door, nothing more.

Pure; `api.front` uses it. Plain is a small part of what HTTP/1.1 allows, and what is not
plain is not wrong: it is left to aiohttp's parser, which knows all of HTTP. So no request
may be plain here and mean something else there: no header stands twice, there is one
`Content-Length`, and nothing that frames or transforms a body in another way. A property
test holds this against aiohttp's parser.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

HEAD_BYTES_MAX = 8000  # aiohttp takes 8190 of any one line: what is plain is within its limits
FIELDS_MAX = 60  # aiohttp takes 64
BODY_BYTES_MAX = 64 << 10  # what one read of a socket brings; more is worth a stream

END = b"\r\n\r\n"
_BEGIN = b"POST /v1/"
_LINE = re.compile(rb"POST (/v1/(roles|pipelines)/([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})) HTTP/1\.1")
# A name, and a value of visible ASCII: neither a lone CR or LF, nor a folded line.
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t\x20-\x7e]*)")
_LENGTH = re.compile(r"[1-9][0-9]{0,8}")
# These frame a body, ask for a word before it, transform it, or come from a browser's page.
ODD = frozenset(
    {
        "content-encoding", "expect", "http2-settings", "origin", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip


class Head(msgspec.Struct, frozen=True):
    """A plain head.

    Attributes:
        kind: "roles" or "pipelines".
        name: which of them.
        path: of the request line.
        length: of the body, bytes.
        fields: every header, by its name as it was written.
    """

    kind: str
    name: str
    path: str
    length: int
    fields: Mapping[str, str]


def may_begin(data: bytes) -> bool:
    """Whether a head that begins like this may become a plain one."""
    return len(data) <= HEAD_BYTES_MAX and data.startswith(_BEGIN[: len(data)])


def read(head: bytes) -> Head | None:
    """Return what a head says, None if it is not plain.

    Args:
        head: from the request line to the last header, without the empty line.
    """
    if len(head) > HEAD_BYTES_MAX:
        return None
    first, *lines = head.split(b"\r\n")
    line = _LINE.fullmatch(first)
    if line is None or len(lines) > FIELDS_MAX:
        return None
    fields: dict[str, str] = {}
    for each in lines:
        field = _FIELD.fullmatch(each)
        if field is None:
            return None
        name = field[1].decode().lower()
        if name in fields:
            return None
        fields[name] = field[2].decode().strip(" \t")
    if not _is_plain(fields):
        return None
    path, kind, name = (part.decode() for part in line.groups())
    return Head(kind, name, path, int(fields["content-length"]), fields)


def _is_plain(fields: Mapping[str, str]) -> bool:
    """Whether headers frame the body by its length alone, and the connection goes on."""
    if not ODD.isdisjoint(fields) or "host" not in fields:
        return False
    if fields.get("connection", "keep-alive").lower() != "keep-alive":
        return False
    length = fields.get("content-length", "")
    return _LENGTH.fullmatch(length) is not None and int(length) <= BODY_BYTES_MAX
