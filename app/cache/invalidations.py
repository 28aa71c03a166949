"""The invalidations of callers, as every process knows them.

Invariant: if a call began before an invalidation that covers its entry, the entry is not returned after that invalidation, in
any tier, even if it was written there later. So each entry has the time at which its call began, and each look-up compares it
with the invalidations. A store that was away needs no repair, and nothing depends on whether its keys were deleted.

Invalidations are rows in PostgreSQL and reach all processes through the outbox. If a process has not read them, or has lost its
place in the events, it returns nothing from the cache until it has read them again.
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
"""No entry becomes older, so no invalidation needs to be kept longer."""
MAX_KEPT: Final = 1000
"""The number of invalidations by name, pattern or tag that are kept per tenant. If there are more, the oldest are replaced by
one invalidation of everything."""
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
        """Returns a function that says whether a name with its tags is selected."""
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
    """The time of the last invalidation of each. `version` counts the invalidations."""

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
        """An invalidation of everything replaces them."""
        times = sorted([*self.names.values(), *self.tags.values(), *(at for _, at in self.patterns.values())])
        middle = times[len(times) // 2]
        self.everything = middle if self.everything is None else max(middle, self.everything)
        self.names = {name: at for name, at in self.names.items() if at > middle}
        self.tags = {tag: at for tag, at in self.tags.items() if at > middle}
        self.patterns = {text: (pattern, at) for text, (pattern, at) in self.patterns.items() if at > middle}


class Invalidations:
    def __init__(
        self,
        sessions: Sessions,
        relay: Relay,
        clock: Clock,
        *,
        on_lost: Callable[[], None],
        on_taken: Callable[[str, Selector], None] | None = None,
    ) -> None:
        """`on_lost` is called if this process may have missed some. `on_taken` gets the tenant and selector of each one that this
        process learns of."""
        self._sessions = sessions
        self._clock = clock
        self._on_lost = on_lost
        self._on_taken = on_taken
        self._topic = relay.topic(TOPIC, Invalidated, _load_events)
        self._tenants: dict[str, _Tenant] = {}
        self._is_known = False

    @property
    def is_known(self) -> bool:
        """False while nothing may be returned from the cache, because this process does not know all invalidations."""
        return self._is_known

    def version(self, tenant: str) -> int:
        """Changes with each invalidation of the tenant."""
        known = self._tenants.get(tenant)
        return 0 if known is None else known.version

    def covers(self, key: EntryKey, entry: Entry) -> bool:
        """Whether the entry must not be returned any more."""
        tenant = self._tenants.get(key.tenant)
        return tenant is not None and tenant.covers(key.name, entry.tags, entry.began_at)

    async def add(self, tenant: str, selector: Selector) -> None:
        """Returns when the invalidation is committed and applies in this process. Raises StoreUnavailable; then nothing has
        changed."""
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
        if self._on_taken is not None:
            self._on_taken(event.tenant, Selector(event.kind, event.values))

    def _lose(self) -> None:
        if self._is_known:
            _log.warning("the cache returns nothing until all invalidations are known again")
        self._is_known = False
        self._on_lost()


async def delete_old(sessions: Sessions) -> None:
    """Deletes invalidations that are older than any entry. Raises StoreUnavailable."""
    async with sessions.statements() as session:
        await session.execute(_DELETE_OLD, {"age": MAX_AGE})


def _compile(pattern: str) -> re.Pattern[str]:
    """Only * and ? have a special meaning."""
    return re.compile(translate(pattern.replace("[", "[[]")))


async def _load_events(rows: Sequence[Sequenced]) -> list[Invalidated | None]:
    return [msgspec.convert(row.payload, Invalidated) for row in rows]


_INVALIDATE = text("select /* invalidations.invalidate */ cache_invalidate(:tenant, :kind, :given, :most)")
_ALL = text("select /* invalidations.all */ tenant, kind, value, at from cache_invalidations where at > :oldest")
_DELETE_OLD = text(
    "delete /* invalidations.delete_old */ from cache_invalidations where at < clock_timestamp() - cast(:age as interval)"
)
