"""The log of events: rows of the outbox get their positions in the order of commits, and all processes read them in that order.

A position is given after the commit, under a lock, never at the insert: a row that commits late with a lower number would be
missed for good. NOTIFY only wakes; whoever is woken places what is there and reads on from where it was, so that a lost call
loses nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta

from sqlalchemy import RowMapping, text

from app.clock import Clock
from app.db.sessions import Sessions
from app.db.tables.budgets import outbox
from app.db.wakeups import Wakeup, listen
from app.errors import StoreUnavailable
from app.events.topics import Event, Load, Placed, PlacedPage, Topic

CHANNEL = "greenlang_outbox"
KEPT = timedelta(days=30)
POLL_SECONDS = 2.0
BEAT_SECONDS = 15.0
GREETING_SECONDS = 0.5
"""Between two beats that newcomers ask for."""
FORGET_SECONDS = 600.0
PAGE = 500

_log = logging.getLogger(__name__)


class Relay:
    """`kept` is how long an event can be replayed."""

    def __init__(self, sessions: Sessions, clock: Clock, kept: timedelta = KEPT) -> None:
        self._sessions = sessions
        self._clock = clock
        self._kept = kept
        self._wakeup = Wakeup(clock)
        self._newcomer = Wakeup(clock)
        self._topics: list[Topic[object]] = []
        self._listeners: list[Callable[[], None]] = []
        self._position: int | None = None

    def topic(self, name: str, load: Load[Event]) -> Topic[Event]:
        """To be asked for before `run`."""
        made = Topic(name, load, self)
        self._topics.append(made)  # type: ignore[arg-type]  # a topic's events are known to its own load alone
        return made

    def on_told(self, listener: Callable[[], None]) -> None:
        """`listener` is called when events have been told; it must not block."""
        self._listeners.append(listener)

    def greet(self) -> None:
        """Somebody follows who is shown what others are shown: a beat tells them where they are."""
        self._newcomer.set()

    def wake(self) -> None:
        """Something was put into the outbox."""
        self._wakeup.set()

    async def run(self) -> None:
        """Places, reads and tells until it is cancelled."""
        primary = self._sessions.engines.primary
        try:
            await asyncio.gather(listen(primary, CHANNEL, self.wake, self._clock), self._work(), self.beat(), self._forget())
        except Exception:
            _log.exception("events are told no more")
            raise

    async def catch_up(self) -> None:
        """All that was committed before is placed and told when this returns. Raises StoreUnavailable."""
        async with self._sessions.statements() as session:
            while (await session.execute(_PLACE, {"most": PAGE})).scalar_one():
                pass
        while await self._read():
            pass

    async def page(self, topic: str, tenant: str | None, after: int, upto: int) -> PlacedPage:
        async with self._sessions.read(primary=True) as session:
            found = await session.execute(
                _PAGE, {"topic": topic, "tenant": tenant, "after": after, "upto": upto, "most": PAGE + 1}
            )
            rows = list(map(_placed, found.mappings().all()))
            edge = (await session.execute(_EDGE)).one()
        kept = tuple(row for row in rows[:PAGE] if row.position > edge.gone)
        return PlacedPage(kept, len(rows) > PAGE, edge.gone, edge.oldest_at or self._clock.now())

    async def _work(self) -> None:
        while True:
            try:
                await self.catch_up()
            except StoreUnavailable:
                _log.warning("no events are told: PostgreSQL does not answer")
            await self._wakeup.wait(POLL_SECONDS)

    async def _read(self) -> bool:
        """True where there may be more."""
        async with self._sessions.read(primary=True) as session:
            head: int = (await session.execute(text("select head from event_log"))).scalar_one()
            if self._position is None or head < self._position:
                self._open(head)
                return False
            if head == self._position:
                return False
            found = await session.execute(_NEXT, {"after": self._position, "head": head, "most": PAGE})
            rows = list(map(_placed, found.mappings().all()))
        await self._take(rows, head if len(rows) < PAGE else rows[-1].position)
        return len(rows) == PAGE

    def _open(self, head: int) -> None:
        """At the start, and where the primary has forgotten what it had confirmed: followers then ask again."""
        if self._position is not None:
            _log.error("the log of events is shorter than it was", extra={"was": self._position, "is": head})
        self._position = head
        for topic in self._topics:
            topic.open(head)

    async def _take(self, rows: Sequence[Placed], position: int) -> None:
        for topic in self._topics:
            await topic.take(rows, position)
        self._position = position
        for listener in self._listeners:
            listener()

    async def beat(self) -> None:
        """Every 15 seconds, and for newcomers, until it is cancelled: a sign of life for whoever follows."""
        while True:
            greeting = await self._newcomer.wait(BEAT_SECONDS)
            for topic in self._topics:
                topic.beat()
            if greeting:
                await self._clock.sleep(GREETING_SECONDS)

    async def _forget(self) -> None:
        while True:
            await self._clock.sleep(FORGET_SECONDS)
            try:
                await self.forget()
            except StoreUnavailable:
                _log.warning("no old events were forgotten: PostgreSQL does not answer")

    async def forget(self) -> None:
        """Deletes the events that have been kept long enough."""
        async with self._sessions.statements() as session:
            while (await session.execute(_FORGET, {"kept": self._kept, "most": PAGE})).scalar_one():
                pass


_ROW = outbox.c.position, outbox.c.key, outbox.c.topic, outbox.c.tenant, outbox.c.payload, outbox.c.placed_at
_PLACE = text("select outbox_place(:most)")
_FORGET = text("select outbox_forget(:kept, :most)")
_NEXT = text(
    "select position, key, topic, tenant, payload, placed_at from outbox where position > :after and position <= :head"
    " order by position limit :most"
).columns(*_ROW)
_PAGE = text(
    "select position, key, topic, tenant, payload, placed_at from outbox where topic = :topic and position > :after"
    " and position <= :upto and (cast(:tenant as text) is null or tenant = :tenant) order by position limit :most"
).columns(*_ROW)
_EDGE = text(
    "select gone, (select placed_at from outbox where position > gone order by position limit 1) as oldest_at from event_log"
)


def _placed(row: RowMapping) -> Placed:
    return Placed(row["position"], row["key"], row["topic"], row["tenant"], row["payload"], row["placed_at"])
