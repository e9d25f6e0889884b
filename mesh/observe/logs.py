"""Writes events to standard error: JSON lines, or plain ones on a terminal.

Shell: the one place that configures `logging`. An event is `noun.verb_past` with
fields: `log.info("member.suspected", node="n1", wait_s=2.0)`. Pure parts never log.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any, TextIO

FIELDS = "mesh_fields"
FIELD_CHARS_MAX = 2000  # a field is cut to this: a log is no place for payloads


class Log:
    """A named source of events; every event may carry the fields that were bound to it."""

    def __init__(self, logger: logging.Logger, bound: dict[str, Any] | None = None) -> None:
        self._logger, self._bound = logger, bound or {}

    def bind(self, **fields: Any) -> Log:
        """Return a log that adds `fields` to each event."""
        return Log(self._logger, {**self._bound, **fields})

    def debug(self, event: str, **fields: Any) -> None:
        """Everything that is not below."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Life cycle and requests."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Degraded, handled."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, error: BaseException | None = None, **fields: Any) -> None:
        """A person must act; `error` adds its traceback."""
        self._write(logging.ERROR, event, fields, error)

    def _write(
        self, level: int, event: str, fields: dict[str, Any], error: BaseException | None = None
    ) -> None:
        if self._logger.isEnabledFor(level):
            extra = {FIELDS: {**self._bound, **fields}}
            self._logger.log(level, "%s", event, extra=extra, exc_info=error)


def named(name: str, **bound: Any) -> Log:
    """Return the log of one part, e.g. `named("mesh.node", node="n0")`."""
    return Log(logging.getLogger(name), bound)


def configure(level: str, stream: TextIO | None = None) -> None:
    """Send all events of `level` and above to `stream`; call it once, at the start."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Plain() if stream.isatty() else _Json())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)  # of libraries only what is wrong
    logging.getLogger("mesh").setLevel(level.upper())
    logging.getLogger("aiohttp.server").addFilter(_is_ours)


def _is_ours(record: logging.LogRecord) -> bool:
    """Return whether a library's record is about us, not about bytes that are no HTTP.

    Anybody may send those, and gets his 400: no reason to write a traceback each time.
    """
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or kind.__module__.partition(".")[0] != "aiohttp"


class Quota:
    """How many lines a second may be written: a bucket that fills steadily.

    What is refused is counted, and `take` hands that count to the next line.
    """

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._level = per_s
        self._filled_s = 0.0
        self._skipped = 0

    def take(self, now_s: float) -> int | None:
        """Return how many lines were skipped since the last, or None to skip this one too."""
        self._level = min(self._per_s, self._level + (now_s - self._filled_s) * self._per_s)
        self._filled_s = now_s
        if self._level < 1.0:
            self._skipped += 1
            return None
        self._level -= 1.0
        skipped, self._skipped = self._skipped, 0
        return skipped


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= {key: _value(value) for key, value in _fields(record).items()}
        line["log"] = record.name
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = _fields(record).items()
        pairs = " ".join(f"{key}={_plain(_value(value))}" for key, value in fields)
        level = "" if record.levelno == logging.INFO else f" {record.levelname}"
        line = f"{clock}{level} {_plain(record.getMessage())} {pairs}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {FIELDS, "message", "asctime"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return an event's fields; parts that use `logging` directly pass them as `extra`."""
    extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    return extra | getattr(record, FIELDS, {})


def _value(value: Any) -> Any:
    if isinstance(value, str) and len(value) > FIELD_CHARS_MAX:
        return value[:FIELD_CHARS_MAX] + "…"
    return value


def _plain(value: Any) -> str:
    """Return a value for a terminal: control characters could rewrite the screen."""
    text = value if isinstance(value, str) else str(value)
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
