"""Logs as one line per event, never with content or keys: JSON, or readable text on a terminal."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from typing import Final

from app.telemetry.request_id import RequestIdFilter

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry.update(_fields(record))
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class TextFormatter(logging.Formatter):
    """For a person at a terminal. Values are written as JSON, so a line break in one stays in its line."""

    def format(self, record: logging.LogRecord) -> str:
        at, fields = self.formatTime(record, "%H:%M:%S"), _fields(record)
        known = " ".join(f"{key}={json.dumps(value, default=str)}" for key, value in fields.items())
        message = record.getMessage().encode("unicode_escape").decode("ascii")
        line = f"{at} {record.levelname.lower():<7} {message}{'  ' + known if known else ''}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in record.__dict__.items() if key not in _STANDARD}


ACCESS_LOG: Final = "app.web.access_log"
MAX_LINES_A_MINUTE: Final = 60


class BoundedLines(logging.Filter):
    """Limits the lines per minute from one place in the code, so that many bad requests cannot fill a disk.

    The last line that passes says that others are left out (`more`). The first line of a later minute says how many were left
    out (`left_out`). The access log is not limited, because its operator asked for every request.
    """

    def __init__(self, lines: int = MAX_LINES_A_MINUTE) -> None:
        super().__init__()
        self._lines = lines
        self._places: dict[tuple[str, int], _Minute] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == ACCESS_LOG:
            return True
        place = record.pathname, record.lineno
        minute = self._places.get(place)
        if minute is None or abs(record.created - minute.since) >= 60:
            if minute is not None and minute.lines > self._lines:
                record.left_out = minute.lines - self._lines
            minute = self._places[place] = _Minute(record.created)
        minute.lines += 1
        if minute.lines == self._lines:
            record.more = "lines of this kind are left out for the rest of the minute"
        return minute.lines <= self._lines


@dataclass(slots=True)
class _Minute:
    """`since` is in seconds since the epoch."""

    since: float
    lines: int = 0


OURS = ("app", "resolvers", "schema")
"""The loggers to which `level` applies. Libraries log only warnings, because on lower levels some of them log whole requests
and frames."""


def configure_logging(level: str, form: str = "json") -> None:
    """`form` is json, text, or auto: text if standard error is a terminal."""
    handler = logging.StreamHandler(sys.stderr)
    is_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    handler.setFormatter(TextFormatter() if is_text else JsonFormatter())
    handler.addFilter(BoundedLines())
    handler.addFilter(RequestIdFilter())
    wanted: int = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=max(logging.WARNING, wanted), handlers=[handler], force=True)
    for name in OURS:
        logging.getLogger(name).setLevel(wanted)
