"""Events of one kind, as every follower in this process sees them: in the order of their positions, each once, without a gap.

A follower has no queue of its own, only a position. It reads new events from memory or, if it is further behind, from the
table. So a slow follower costs no memory and misses nothing.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeAlias, TypeVar, cast
from uuid import UUID

import msgspec

from app.domain.errors import StoreUnavailable
from app.domain.paging import decode_cursor, encode_cursor, not_a_cursor

Event = TypeVar("Event")

LATEST = 1000
"""The number of events that are kept in memory."""
OPENING_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Sequenced:
    """A row of the log. `key` is the key of the event. `payload` is its data if it has no table."""

    position: int
    key: UUID
    topic: str
    tenant: str
    payload: Mapping[str, object] | None
    at: datetime


@dataclass(frozen=True, slots=True)
class SequencedPage:
    """`more` is True if the span has further rows. `last_deleted` is the last position whose row is no longer kept. `oldest_at`
    is when the oldest kept row was sequenced."""

    rows: tuple[Sequenced, ...]
    more: bool
    last_deleted: int
    oldest_at: datetime


@dataclass(frozen=True, slots=True)
class Published:
    """A row with its decoded event; None if it is not to be published."""

    position: int
    topic: str
    tenant: str
    event: object | None


class SequencedRows(Protocol):
    async def page(self, topic: str, tenant: str | None, after: int, upto: int) -> SequencedPage:
        """Returns rows in order, after `after` up to `upto`. Raises StoreUnavailable."""
        ...

    async def has(self, position: int) -> bool:
        """Whether the log has reached the position. If so, the topics get it soon. Raises StoreUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Arrived(Generic[Event]):
    """`replayed` is True if the event was sequenced before the follower joined."""

    position: int
    event: Event
    replayed: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """Requested events up to `position` are no longer kept."""

    position: int
    oldest_kept_at: datetime


@dataclass(frozen=True, slots=True)
class Beat:
    """Everything up to `position` has been delivered."""

    position: int


Step: TypeAlias = Arrived[Event] | Lost | Beat
Load: TypeAlias = Callable[[Sequence[Sequenced]], Awaitable[Sequence[Event | None]]]
"""Returns the events of these rows, in their order; None for one that is not to be published."""


class Topic(Generic[Event]):
    def __init__(self, name: str, kind: type[Event], load: Load[Event], rows: SequencedRows) -> None:
        """`kind` is the type that msgspec decodes an event as."""
        self.name = name
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._load = load
        self._rows = rows
        self._positions: list[int] = []
        self._latest: list[tuple[str, Event]] = []
        self._complete_after = 0
        self._position = 0
        self._opened = asyncio.Event()
        self._grown = asyncio.Event()
        self._ahead = 0
        """The number of followers that have read events from the table which are not published here yet."""
        self._beats = 0
        self.published = 0

    async def load(self, rows: Sequence[Sequenced]) -> list[Published]:
        """Returns the rows of this topic."""
        own = [row for row in rows if row.topic == self.name]
        events = await self._load(own) if own else ()
        return [Published(row.position, row.topic, row.tenant, event) for row, event in zip(own, events, strict=True)]

    def decode(self, data: bytes) -> object:
        """Decodes an event that another process has encoded. Raises msgspec.DecodeError."""
        return self._decoder.decode(data)

    def take(self, published: Sequence[Published], position: int) -> None:
        """Takes the next events up to `position`, of this topic and others."""
        own = [each for each in published if each.topic == self.name]
        self.published += len(own)
        for each in own:
            if each.event is not None:
                self._positions.append(each.position)
                self._latest.append((each.tenant, cast(Event, each.event)))
        if len(self._positions) > 2 * LATEST:
            self._complete_after = self._positions[-LATEST - 1]
            del self._positions[:-LATEST], self._latest[:-LATEST]
        self._position = position
        if own or self._ahead:
            self._wake()

    def open(self, position: int) -> None:
        """Sets the position of the log. `take` will get the events after it."""
        self._positions.clear()
        self._latest.clear()
        self._complete_after = self._position = position
        self._opened.set()
        self._wake()

    def beat(self) -> None:
        """Sends a heartbeat to every follower."""
        self._beats += 1
        self._wake()

    async def follow(self, after: int | None, tenant: str | None) -> AsyncGenerator[Step[Event], None]:
        """Yields what comes after the position `after`, or from now on, of one tenant or (None) of all. First come missed
        events, then a Beat, then every new event, with a Beat from time to time. Raises StoreUnavailable."""
        joined = await self._join(after or 0)
        position = joined if after is None else after
        if position > joined:
            position = joined
            yield Lost(joined, (await self._rows.page(self.name, tenant, joined, joined)).oldest_at)
        shown_beats: int | None = None
        while True:
            upto = self._position
            if upto < position:
                raise StoreUnavailable("PostgreSQL")
            if position < self._complete_after:
                async for step in self._from_table(position, upto, joined, tenant):
                    yield step
            else:
                for place, event in self._from_memory(position, tenant):
                    yield Arrived(place, event, place <= joined)
            position = upto
            if position < self._position:
                continue
            if shown_beats == self._beats:
                await self._grown.wait()
            else:
                shown_beats = self._beats
                yield Beat(position)

    async def _join(self, after: int) -> int:
        """Returns the head of the log, but not before `after`. If another process was faster to publish, nothing is delivered
        again."""
        try:
            async with asyncio.timeout(OPENING_SECONDS):
                await self._opened.wait()
                if self._position < after and await self._rows.has(after):
                    await self._until_published(after)
        except TimeoutError:
            raise StoreUnavailable("PostgreSQL") from None
        return self._position

    async def _until_published(self, position: int) -> None:
        self._ahead += 1
        try:
            while self._position < position:
                await self._grown.wait()
        finally:
            self._ahead -= 1

    async def _from_table(
        self, after: int, upto: int, joined: int, tenant: str | None
    ) -> AsyncGenerator[Arrived[Event] | Lost, None]:
        while after < upto:
            page = await self._rows.page(self.name, tenant, after, upto)
            if page.last_deleted > after:
                yield Lost(min(page.last_deleted, upto), page.oldest_at)
            events = await self._load(page.rows) if page.rows else ()
            for row, event in zip(page.rows, events, strict=True):
                if event is not None:
                    yield Arrived(row.position, event, row.position <= joined)
            after = max(page.last_deleted, page.rows[-1].position if page.rows else 0) if page.more else upto

    def _from_memory(self, after: int, tenant: str | None) -> list[tuple[int, Event]]:
        first = bisect_right(self._positions, after)
        found = zip(self._positions[first:], self._latest[first:], strict=True)
        return [(place, event) for place, (owner, event) in found if tenant in {None, owner}]

    def _wake(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()


def encode_position(stream: str, position: int) -> str:
    """The cursor of a position."""
    return encode_cursor(stream, str(position))


def decode_position(stream: str, cursor: str | None) -> int | None:
    """Raises Refused(InvalidInput) for a text that is no cursor of this stream."""
    if cursor is None:
        return None
    (digits,) = decode_cursor(stream, cursor, 1)
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        raise not_a_cursor("stream")
    return int(digits)
