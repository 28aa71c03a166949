"""The log of events: rows of the outbox get positions in the order of commits, and all processes read them in that order.

A position is assigned after the commit, under a lock, never at the insert. Otherwise a row that commits late with a lower
number would be missed. NOTIFY only wakes: its receiver sequences the rows that are there and continues from its last position,
so a lost notification loses nothing.

With Redis only the leader reads, and the others follow the stream that it writes there. Positions, and so cursors, are the same
in both cases. What is missing or doubtful in Redis is read here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import msgspec
from sqlalchemy import RowMapping, Select, select, text

from app.db.sessions import Sessions
from app.db.statement_times import named
from app.db.tables.events import outbox
from app.db.wakeups import Wakeup, listen
from app.domain.errors import StoreUnavailable
from app.events.heartbeat import HEARTBEAT_SECONDS
from app.events.redis_streams import Copy, Leader, RedisStreams
from app.events.topics import Event, Load, Published, Sequenced, SequencedPage, Topic
from app.runtime.clock import Clock
from app.runtime.tasks import end_tasks

CHANNEL = "greenlang_outbox"
KEPT = timedelta(days=30)
POLL_SECONDS = 2.0
RENEWAL_SECONDS = 1.0
CHECK_SECONDS = 15.0
"""A process that follows the leader's stream reads PostgreSQL itself after this time."""
GREETING_SECONDS = 0.5
"""The shortest time between two heartbeats that new subscribers ask for."""
FORGET_SECONDS = 600.0
PAGE = 500

_log = logging.getLogger(__name__)


class Relay:
    """`kept` is how long an event can be replayed."""

    def __init__(self, sessions: Sessions, clock: Clock, kept: timedelta = KEPT, streams: RedisStreams | None = None) -> None:
        self._sessions = sessions
        self._clock = clock
        self._kept = kept
        self._streams = streams
        self._history = ""
        self._leader: Leader | None = None
        self._wakeup = Wakeup(clock)
        self._newcomer = Wakeup(clock)
        self._topics: list[Topic[object]] = []
        self._listeners: list[Callable[[], None]] = []
        self._position: int | None = None

    @property
    def position(self) -> int:
        """The position of the last event that was published here; 0 before the first."""
        return self._position or 0

    def topic(self, name: str, kind: type[Event], load: Load[Event]) -> Topic[Event]:
        """Creates a topic. Call it before `run`."""
        made = Topic(name, kind, load, self)
        self._topics.append(made)  # type: ignore[arg-type]  # a topic's events are known to its own load alone
        return made

    def on_published(self, listener: Callable[[], None]) -> None:
        """Calls `listener` after events have been published. It must not block."""
        self._listeners.append(listener)

    def greet(self) -> None:
        """Call it when a subscriber has joined a shared stream: a heartbeat gives it the position."""
        self._newcomer.set()

    def wake(self) -> None:
        """Call it when something was put into the outbox."""
        self._wakeup.set()

    async def run(self) -> None:
        """Sequences, reads and publishes until it is cancelled."""
        listening = listen(self._sessions.engines.listening, CHANNEL, self.wake, self._clock)
        tasks = [asyncio.create_task(each) for each in (listening, self._work(), self.beat(), self._forget())]
        try:
            await asyncio.gather(*tasks)
        except Exception:
            _log.exception("events are no longer published")
            raise
        finally:
            await end_tasks(tasks)

    async def catch_up(self) -> None:
        """Returns when everything that was committed before is sequenced and published. Raises StoreUnavailable."""
        async with self._sessions.statements() as session:
            while (await session.execute(_SEQUENCE, {"most": PAGE})).scalar_one():
                pass
        while await self._read():
            pass

    async def page(self, topic: str, tenant: str | None, after: int, upto: int) -> SequencedPage:
        async with self._sessions.read(primary=True) as session:
            asked = _rows_between(after, upto, PAGE + 1).where(outbox.c.topic == topic)
            if tenant is not None:
                asked = asked.where(outbox.c.tenant == tenant)
            rows = list(map(_sequenced, (await session.execute(asked)).mappings().all()))
            edge = (await session.execute(_EDGE)).one()
        kept = tuple(row for row in rows[:PAGE] if row.position > edge.last_deleted)
        return SequencedPage(kept, len(rows) > PAGE, edge.last_deleted, edge.oldest_at or self._clock.now())

    async def has(self, position: int) -> bool:
        async with self._sessions.read(primary=True) as session:
            head: int = (await session.execute(_HEAD)).one().head
        self.wake()
        return head >= position

    async def _work(self) -> None:
        while True:
            before, pause = self._position, POLL_SECONDS
            try:
                await self.catch_up()
                pause = await self._share()
            except StoreUnavailable:
                _log.warning("no events are published: PostgreSQL does not answer")
            if pause or self._position == before:
                await self._wakeup.wait(pause or RENEWAL_SECONDS)

    async def _share(self) -> float:
        """If another process is the leader, takes what it publishes until PostgreSQL has to be asked, and then returns 0.
        Otherwise returns the seconds after which to ask PostgreSQL, unless something wakes us earlier."""
        if self._streams is None or self._position is None:
            return POLL_SECONDS
        try:
            return await self._follow(self._streams, self._position)
        except StoreUnavailable:
            self._set_leader(None)
        except Exception:  # noqa: BLE001 whatever Redis says, PostgreSQL has the events
            self._set_leader(None)
            _log.exception("events cannot be shared through Redis")
        return POLL_SECONDS

    async def _follow(self, streams: RedisStreams, position: int) -> float:
        until = self._clock.monotonic() + CHECK_SECONDS
        while self._clock.monotonic() < until:
            leader = await streams.acquire_lease(self._history, position)
            self._set_leader(leader)
            if leader.is_self:
                return RENEWAL_SECONDS
            copies = await streams.read(self._history, leader, position)
            published = self._next(copies, position)
            if published:
                self._wakeup.taken()
                position = published[-1].position
                self._publish(published, position)
            elif copies or leader.position > position or self._wakeup.taken():
                break
        return 0

    def _next(self, copies: Sequence[Copy], position: int) -> list[Published]:
        """Returns the events directly after the position, up to the first one that is missing or cannot be read."""
        topics = {topic.name: topic for topic in self._topics}
        found: list[Published] = []
        for copy in copies:
            if copy.position != position + len(found) + 1 or copy.topic not in topics:
                break
            try:
                event = topics[copy.topic].decode(copy.event) if copy.event else None
            except msgspec.DecodeError:
                break
            found.append(Published(copy.position, copy.topic, copy.tenant, event))
        return found

    def _set_leader(self, leader: Leader | None) -> None:
        if leader is None and self._leader is not None:
            _log.warning("events come from PostgreSQL alone: Redis does not answer")
        self._leader = leader

    async def _read(self) -> bool:
        """Returns True if there may be more."""
        async with self._sessions.read(primary=True) as session:
            head, history = (await session.execute(_HEAD)).one()
            if self._position is None or head < self._position:
                self._open(head, history)
                return False
            if head == self._position:
                return False
            found = await session.execute(_rows_between(self._position, head, PAGE))
            rows = list(map(_sequenced, found.mappings().all()))
        await self._take(rows, head if len(rows) < PAGE else rows[-1].position)
        return len(rows) == PAGE

    def _open(self, head: int, history: str) -> None:
        """Runs at the start, and when the primary has lost confirmed events. Followers then read again."""
        if self._position is not None:
            _log.error("the log of events is shorter than it was", extra={"was": self._position, "is": head})
        self._position, self._history = head, history
        if self._streams is not None:
            self._streams.resign()
        for topic in self._topics:
            topic.open(head)

    async def _take(self, rows: Sequence[Sequenced], position: int) -> None:
        published = [each for topic in self._topics for each in await topic.load(rows)]
        self._publish(published, position)
        if self._streams is not None and self._leader is not None and self._leader.is_self:
            await self._copy(self._streams, published)

    def _publish(self, published: Sequence[Published], position: int) -> None:
        for topic in self._topics:
            topic.take(published, position)
        self._position = position
        for listener in self._listeners:
            listener()

    async def _copy(self, streams: RedisStreams, published: Sequence[Published]) -> None:
        """Rows of topics that this process does not know are left out. Processes that know these topics see them as missing."""
        try:
            await streams.write(self._history, sorted(map(_copied, published), key=_position))
        except StoreUnavailable:
            self._set_leader(None)
        except Exception:  # noqa: BLE001 here all has been published, and others read PostgreSQL
            self._set_leader(None)
            _log.exception("events cannot be shared through Redis")

    async def beat(self) -> None:
        """Sends a heartbeat to every follower every 15 seconds, and when a new subscriber asks for one. Runs until it is
        cancelled."""
        while True:
            greeting = await self._newcomer.wait(HEARTBEAT_SECONDS)
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
                _log.warning("old events were not deleted: PostgreSQL does not answer")

    async def forget(self) -> None:
        """Deletes the events whose time has passed."""
        async with self._sessions.statements() as session:
            while (await session.execute(_FORGET, {"kept": self._kept, "most": PAGE})).scalar_one():
                pass


_SEQUENCE = text("select /* outbox.sequence */ outbox_sequence(:most)")
_HEAD = text(
    "select /* outbox.head */"
    " head, history || '-' || (select oid from pg_database where datname = current_database()) as history from event_log"
)
_FORGET = text("select /* outbox.forget */ outbox_forget(:kept, :most)")
_EDGE = text(
    "select /* outbox.edge */"
    " last_deleted, (select sequenced_at from outbox where position > last_deleted order by position limit 1) as oldest_at"
    " from event_log"
)
_ROWS = select(
    outbox.c.position, outbox.c.key, outbox.c.topic, outbox.c.tenant, outbox.c.payload, outbox.c.sequenced_at
).order_by(outbox.c.position)


def _rows_between(after: int, upto: int, most: int) -> Select[Any]:
    """Returns the rows of positions in (after, upto]."""
    return named("outbox.rows", _ROWS).where(outbox.c.position > after, outbox.c.position <= upto).limit(most)


def _copied(published: Published) -> Copy:
    return Copy(
        published.position,
        published.topic,
        published.tenant,
        b"" if published.event is None else msgspec.msgpack.encode(published.event),
    )


def _position(copy: Copy) -> int:
    return copy.position


def _sequenced(row: RowMapping) -> Sequenced:
    return Sequenced(row["position"], row["key"], row["topic"], row["tenant"], row["payload"], row["sequenced_at"])
