"""What callers have invalidated, as every process knows it.

Invariant: an entry whose call began before an invalidation that covers it is never given after that invalidation, from whichever
tier, and however late it was written there. So each entry has the time at which its call began, and each look-up compares it with
the invalidations. A store that was away meanwhile needs no repair, and nothing depends on whether its keys were deleted.

They are rows in PostgreSQL and travel by the outbox. A process that has not read them, or has lost its place in the events, gives
nothing from the cache until it has read them again.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from fnmatch import translate
from typing import Final

import msgspec
from sqlalchemy import text

from app.cache.entries import Entry
from app.cache.keys import EntryKey
from app.db.sessions import Sessions
from app.domain.errors import StoreUnavailable
from app.events.relay import Relay
from app.events.topics import Arrived, Lost, Sequenced
from app.runtime.clock import Clock

TOPIC: Final = "cache"
MAX_AGE: Final = timedelta(days=31)
"""No entry becomes older, so neither need an invalidation."""
MAX_KEPT: Final = 1000
"""Invalidations of one tenant by name, pattern or tag; with more, the oldest become one of everything."""
RETRY_SECONDS: Final = 1.0
_log = logging.getLogger(__name__)


class SelectorKind(StrEnum):
    NAME = "name"
    PATTERN = "pattern"
    TAG = "tag"
    EVERYTHING = "everything"


@dataclass(frozen=True, slots=True)
class Selector:
    """`values`: names, patterns with * and ?, or tags; one empty text for everything."""

    kind: SelectorKind
    values: tuple[str, ...] = ("",)

    def matcher(self) -> Callable[[str, Sequence[str]], bool]:
        """Tells of a name and its tags whether they are selected."""
        if self.kind is SelectorKind.EVERYTHING:
            return lambda _name, _tags: True
        if self.kind is SelectorKind.NAME:
            return lambda name, _tags: name in self.values
        if self.kind is SelectorKind.TAG:
            return lambda _name, tags: not set(self.values).isdisjoint(tags)
        patterns = [_compile(value) for value in self.values]
        return lambda name, _tags: any(pattern.match(name) for pattern in patterns)


class Invalidated(msgspec.Struct, frozen=True):
    tenant: str
    kind: SelectorKind
    values: tuple[str, ...]
    at: datetime


@dataclass(slots=True)
class _Tenant:
    """When each was invalidated last. `version` counts the invalidations."""

    version: int = 0
    everything: datetime | None = None
    names: dict[str, datetime] = field(default_factory=dict)
    tags: dict[str, datetime] = field(default_factory=dict)
    patterns: dict[str, tuple[re.Pattern[str], datetime]] = field(default_factory=dict)

    def add(self, kind: SelectorKind, value: str, at: datetime) -> None:
        self.version += 1
        if kind is SelectorKind.EVERYTHING:
            self.everything = at if self.everything is None else max(at, self.everything)
        elif kind is SelectorKind.PATTERN:
            known = self.patterns.get(value)
            self.patterns[value] = (_compile(value), at) if known is None else (known[0], max(at, known[1]))
        else:
            times = self.names if kind is SelectorKind.NAME else self.tags
            times[value] = max(at, times.get(value, at))
        if len(self.names) + len(self.tags) + len(self.patterns) > MAX_KEPT:
            self._forget_older_half()

    def covers(self, name: str, tags: Sequence[str], began_at: datetime) -> bool:
        if self.everything is not None and self.everything >= began_at:
            return True
        if (at := self.names.get(name)) is not None and at >= began_at:
            return True
        if any((at := self.tags.get(tag)) is not None and at >= began_at for tag in tags):
            return True
        return any(at >= began_at and pattern.match(name) for pattern, at in self.patterns.values())

    def _forget_older_half(self) -> None:
        """They are covered by one of everything instead."""
        times = sorted([*self.names.values(), *self.tags.values(), *(at for _, at in self.patterns.values())])
        middle = times[len(times) // 2]
        self.everything = middle if self.everything is None else max(middle, self.everything)
        self.names = {name: at for name, at in self.names.items() if at > middle}
        self.tags = {tag: at for tag, at in self.tags.items() if at > middle}
        self.patterns = {text: (pattern, at) for text, (pattern, at) in self.patterns.items() if at > middle}


class Invalidations:
    def __init__(self, sessions: Sessions, relay: Relay, clock: Clock, *, on_lost: Callable[[], None]) -> None:
        """`on_lost` is called when this process may have missed some."""
        self._sessions = sessions
        self._clock = clock
        self._on_lost = on_lost
        self._topic = relay.topic(TOPIC, Invalidated, _load_events)
        self._tenants: dict[str, _Tenant] = {}
        self._is_known = False

    @property
    def is_known(self) -> bool:
        """False while nothing may be given from the cache: it is not known here what has been invalidated."""
        return self._is_known

    def version(self, tenant: str) -> int:
        """Changes with each invalidation of the tenant."""
        known = self._tenants.get(tenant)
        return 0 if known is None else known.version

    def covers(self, key: EntryKey, entry: Entry) -> bool:
        """Whether the entry must not be given any more."""
        tenant = self._tenants.get(key.tenant)
        return tenant is not None and tenant.covers(key.name, entry.tags, entry.began_at)

    async def add(self, tenant: str, selector: Selector) -> None:
        """Committed, and holds in this process, when it returns. Raises StoreUnavailable; then nothing has changed."""
        async with self._sessions.statements() as session:
            at: datetime = (
                await session.execute(
                    _INVALIDATE,
                    {"tenant": tenant, "kind": selector.kind.value, "given": list(selector.values), "most": MAX_KEPT},
                )
            ).scalar_one()
        self._take(Invalidated(tenant, selector.kind, selector.values, at))

    async def run(self) -> None:
        """Follows the invalidations of all processes until it is cancelled."""
        while True:
            try:
                await self._follow()
            except StoreUnavailable:
                self._lose()
            await self._clock.sleep(RETRY_SECONDS)

    async def _follow(self) -> None:
        async with aclosing(self._topic.follow(None, None)) as steps:
            async for step in steps:
                if isinstance(step, Arrived):
                    self._take(step.event)
                elif isinstance(step, Lost):
                    self._lose()
                if not self._is_known:
                    await self._read()

    async def _read(self) -> None:
        async with self._sessions.read(primary=True) as session:
            rows = (await session.execute(_ALL, {"oldest": self._clock.now() - MAX_AGE})).all()
        for row in rows:
            self._take(Invalidated(row.tenant, SelectorKind(row.kind), (row.value,), row.at))
        self._is_known = True

    def _take(self, event: Invalidated) -> None:
        tenant = self._tenants.setdefault(event.tenant, _Tenant())
        for value in event.values:
            tenant.add(event.kind, value, event.at)

    def _lose(self) -> None:
        if self._is_known:
            _log.warning("the cache gives nothing until it is known again what has been invalidated")
        self._is_known = False
        self._on_lost()


async def delete_old(sessions: Sessions) -> None:
    """Invalidations that are older than any entry. Raises StoreUnavailable."""
    async with sessions.statements() as session:
        await session.execute(_DELETE_OLD, {"age": MAX_AGE})


def _compile(pattern: str) -> re.Pattern[str]:
    """* and ? alone have a meaning."""
    return re.compile(translate(pattern.replace("[", "[[]")))


async def _load_events(rows: Sequence[Sequenced]) -> list[Invalidated | None]:
    return [msgspec.convert(row.payload, Invalidated) for row in rows]


_INVALIDATE = text("select cache_invalidate(:tenant, :kind, :given, :most)")
_ALL = text("select tenant, kind, value, at from cache_invalidations where at > :oldest")
_DELETE_OLD = text("delete from cache_invalidations where at < clock_timestamp() - cast(:age as interval)")
