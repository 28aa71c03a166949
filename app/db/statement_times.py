"""How long statements take, by name. The name is a comment in the statement: `select /* budgets.page */ …`. So PostgreSQL shows
it too, in pg_stat_activity, pg_stat_statements and its log. A statement without such a comment is named after what it does and
its first table or function: `update.maintenance`, `select.ledger_sweep`.
"""

from __future__ import annotations

import logging
import re
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Final, TypeVar

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.sql.selectable import HasPrefixes

BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""The upper bounds in seconds. What takes longer is in one more."""
_STARTED: Final = "statement_started"
_NAME: Final = re.compile(r"/\* ([a-z][a-z0-9_.]*) \*/")
_MAX_PLACE: Final = 80
_CHANGE: Final = re.compile(r"\b(insert into|delete from|(?<!for )(?<!do )(?<!key )update)\s+([a-z_]+)", re.IGNORECASE)
_READ: Final = re.compile(r"\bfrom\s+([a-z_]+)", re.IGNORECASE)
_CALL: Final = re.compile(r"\bselect\s+(?:\w+\.)?([a-z_]+)\s*\(", re.IGNORECASE)
Prefixed = TypeVar("Prefixed", bound=HasPrefixes)
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Durations:
    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds


class StatementTimes:
    """Statements that failed or were cancelled by a time limit count too. One that takes longer than `slow` is logged, without
    its parameters."""

    def __init__(self, slow: timedelta, monotonic: Callable[[], float]) -> None:
        self._slow = slow.total_seconds()
        self._monotonic = monotonic
        self.by_name: dict[str, Durations] = {}

    def now(self) -> float:
        return self._monotonic()

    def add(self, statement: str, started: float) -> None:
        """`started` is what `now` returned before the statement was sent."""
        name, seconds = statement_name(statement), self._monotonic() - started
        durations = self.by_name.get(name)
        if durations is None:
            durations = self.by_name[name] = Durations()
        durations.add(seconds)
        if seconds >= self._slow:
            _log.warning("a statement was slow", extra={"statement": name, "seconds": round(seconds, 3)})

    def observe(self, engine: Engine) -> None:
        """Counts every statement of `engine`."""

        def begin(connection: Connection, *_: object) -> None:
            connection.info[_STARTED] = self._monotonic()

        def end(connection: Connection, _cursor: object, statement: str, *_: object) -> None:
            self.add(statement, connection.info.pop(_STARTED))

        def fail(context: ExceptionContext) -> None:
            if context.connection is not None and context.statement is not None and not context.connection.invalidated:
                started = context.connection.info.pop(_STARTED, None)
                if started is not None:
                    self.add(context.statement, started)

        event.listen(engine, "before_cursor_execute", begin)
        event.listen(engine, "after_cursor_execute", end)
        event.listen(engine, "handle_error", fail)


@lru_cache(maxsize=4096)
def statement_name(statement: str) -> str:
    if found := _NAME.search(statement, 0, _MAX_PLACE):
        return found[1]
    if found := _CHANGE.search(statement):
        return f"{found[1].split()[0]}.{found[2]}".lower()
    if found := _READ.search(statement) or _CALL.search(statement):
        return f"select.{found[1]}".lower()
    return statement.split(None, 1)[0].lower() if statement.strip() else "empty"


def named(name: str, statement: Prefixed) -> Prefixed:
    """A statement of SQLAlchemy Core with its name."""
    return statement.prefix_with(text(f"/* {name} */"))
