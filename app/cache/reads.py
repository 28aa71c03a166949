"""What this process keeps of the domain's own reads, such as reports, for at most the time that each read allows.

Invariant: a result is never given to a read with another key, nor longer than its time after its read began, nor after this
process has learned of an event or of an invalidation that drops it. A read that began before such an event is not kept, and no
later caller joins it. Nothing leaves this process.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import msgspec

from app.cache.invalidations import Selector
from app.runtime.clock import Clock
from app.runtime.tasks import create_shared_task, end_tasks

MAX_REFRESHES: Final = 4
"""The number of results that may be refreshed in the background at once."""
_DIGITS: Final = 32
_RESULT_BYTES: Final = 600
"""The memory of a result apart from its encoded value."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReadKey:
    """`tenants` are those whose data the read may contain; None means all. `asked` has everything that decides the result,
    also what the caller may see. The public name is `kind/<32 hex digits>`."""

    kind: str
    tenants: tuple[str, ...] | None
    asked: bytes

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.asked.hex()[:_DIGITS]}"


def read_key(kind: str, tenants: tuple[str, ...] | None, asked: object) -> ReadKey:
    """`asked` is a dataclass, or anything else that msgspec encodes."""
    return ReadKey(kind, tenants, hashlib.sha256(msgspec.json.encode(asked)).digest())


@dataclass(frozen=True, slots=True)
class ReadRule:
    """A result is kept for `ttl`. If it is asked for when it is older than `early`, it is refreshed in the background. The
    domain's events of the kinds `events` drop it."""

    ttl: timedelta
    early: timedelta | None
    tags: tuple[str, ...]
    events: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Kept:
    body: bytes
    rule: ReadRule
    began: float


@dataclass(eq=False, slots=True)
class _Running:
    """`is_current` is False after something was dropped that this read may contain."""

    rule: ReadRule
    began: float
    is_current: bool = True
    task: asyncio.Task[bytes] | None = None


class ReadCache:
    def __init__(self, clock: Clock, max_bytes: int, *, is_known: Callable[[], bool]) -> None:
        """While `is_known` returns False, this process may have missed an invalidation: nothing is kept or given."""
        self._clock = clock
        self._max_bytes = max_bytes
        self._is_known = is_known
        self._kept: OrderedDict[ReadKey, _Kept] = OrderedDict()
        self._bytes = 0
        self._running: dict[ReadKey, _Running] = {}
        self._tasks: set[asyncio.Task[bytes]] = set()
        self._refreshes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size_bytes(self) -> int:
        return self._bytes

    async def get(self, key: ReadKey, rule: ReadRule, read: Callable[[], Awaitable[bytes]]) -> bytes:
        """Returns the kept result, or that of one read for all who ask meanwhile. Raises what the read raises."""
        kept, now = self._kept.get(key), self._clock.monotonic()
        if kept is not None and self._is_known() and now < kept.began + rule.ttl.total_seconds():
            self._kept.move_to_end(key)
            if rule.early is not None and now >= kept.began + rule.early.total_seconds():
                self._refresh(key, rule, read)
            return kept.body
        running = self._running.get(key) or self._start(key, rule, read)
        assert running.task is not None
        return await asyncio.shield(running.task)

    def invalidate(self, tenant: str, selector: Selector) -> None:
        """Drops what contains data of the tenant and is selected by name, tag or pattern."""
        is_selected = selector.matcher()
        self._drop(lambda key, rule: _contains(key, tenant) and is_selected(key.name, rule.tags))

    def happened(self, event: str, tenant: str | None) -> None:
        """Drops what contains data of the tenant (None: of any) and is dropped by events of this kind."""
        self._drop(lambda key, rule: event in rule.events and (tenant is None or _contains(key, tenant)))

    def clear(self) -> None:
        self._drop(lambda _key, _rule: True)

    async def close(self) -> None:
        """Cancels every read that runs."""
        await end_tasks([*self._tasks])

    def _drop(self, is_dropped: Callable[[ReadKey, ReadRule], bool]) -> None:
        for key in [key for key, kept in self._kept.items() if is_dropped(key, kept.rule)]:
            self._forget(key)
        for key in [key for key, running in self._running.items() if is_dropped(key, running.rule)]:
            self._running.pop(key).is_current = False

    def _refresh(self, key: ReadKey, rule: ReadRule, read: Callable[[], Awaitable[bytes]]) -> None:
        if key in self._running or self._refreshes >= MAX_REFRESHES:
            return
        self._refreshes += 1
        running = self._start(key, rule, read)
        assert running.task is not None
        running.task.add_done_callback(self._refreshed)

    def _refreshed(self, task: asyncio.Task[bytes]) -> None:
        self._refreshes -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("a kept result could not be refreshed", extra={"reason": type(error).__name__})

    def _start(self, key: ReadKey, rule: ReadRule, read: Callable[[], Awaitable[bytes]]) -> _Running:
        running = self._running[key] = _Running(rule, self._clock.monotonic())
        running.task = create_shared_task(self._read(key, running, read))
        self._tasks.add(running.task)
        running.task.add_done_callback(self._ended)
        return running

    def _ended(self, task: asyncio.Task[bytes]) -> None:
        """Takes the error, because all who waited for it may have left."""
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()

    async def _read(self, key: ReadKey, running: _Running, read: Callable[[], Awaitable[bytes]]) -> bytes:
        was_known = self._is_known()
        try:
            body = await read()
        finally:
            if running.is_current:
                del self._running[key]
        if running.is_current and was_known and self._is_known():
            self._keep(key, _Kept(body, running.rule, running.began))
        return body

    def _keep(self, key: ReadKey, kept: _Kept) -> None:
        self._forget(key)
        size = _size(kept)
        if size > self._max_bytes:
            return
        self._kept[key] = kept
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: ReadKey) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= _size(kept)


def _contains(key: ReadKey, tenant: str) -> bool:
    return key.tenants is None or tenant in key.tenants


def _size(kept: _Kept) -> int:
    return _RESULT_BYTES + len(kept.body)
