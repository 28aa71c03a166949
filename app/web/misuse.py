"""Requests that are refused for their key or their Origin. They are counted by reason and logged at most once a minute.

The first refusal after a quiet minute is logged at once. Later ones are logged together, one line a minute, with their number
and one of them as a sample. Nothing that an unauthenticated caller sends becomes a label. Only the hint of a key is shown,
which is no secret.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client import Counter as PrometheusCounter
from starlette.types import Scope

from app.domain.errors import Forbidden, ForeignOrigin, RefusedKey, Unauthenticated
from app.runtime.clock import Clock
from app.runtime.tasks import create_shared_task, end_tasks
from app.web.client_address import TrustedProxies

WINDOW_SECONDS: Final = 60.0
_FORBIDDEN: Final = "forbidden"
_ORIGIN: Final = "origin"
_REASONS: Final = (*(reason.value for reason in RefusedKey), _FORBIDDEN, _ORIGIN)
_log = logging.getLogger(__name__)


class Door(Enum):
    """Where a key is required."""

    HTTP = "http"
    WEBSOCKET = "websocket"
    SCHEMA = "schema"
    METRICS = "metrics"
    EXPORT = "export"
    OPENAI = "openai"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came in. `scope` is that of ASGI."""

    door: Door
    scope: Scope


@dataclass(frozen=True, slots=True)
class _Sample:
    reason: str
    origin: Origin
    hint: str | None


class Misuse:
    """The refusals of one process. Call `close` at its end, which logs the rest."""

    def __init__(self, registry: CollectorRegistry, proxies: TrustedProxies, clock: Clock) -> None:
        self._proxies = proxies
        self._clock = clock
        self._refusals = PrometheusCounter(
            "greenlang_refusals", "Requests refused for their key or Origin.", ("reason", "door"), registry=registry
        )
        for reason in _REASONS:
            for door in Door:
                self._refusals.labels(reason, door.value)
        self._unlogged: Counter[str] = Counter()
        self._sample: _Sample | None = None
        self._window: asyncio.Task[None] | None = None

    def note(self, error: BaseException | None, origin: Origin, hint: str | None = None) -> None:
        """Counts an Unauthenticated or a Forbidden, and ignores any other error. `hint` is that of a valid key."""
        if isinstance(error, Unauthenticated):
            reason, hint = error.reason.value, error.hint
        elif isinstance(error, ForeignOrigin):
            reason = _ORIGIN
        elif isinstance(error, Forbidden):
            reason = _FORBIDDEN
        else:
            return
        self._refusals.labels(reason, origin.door.value).inc()
        self._unlogged[reason] += 1
        if self._sample is None or hint is not None:
            self._sample = _Sample(reason, origin, hint)
        if self._window is None:
            self._warn()
            self._window = create_shared_task(self._warn_while_they_come())

    async def close(self) -> None:
        if self._window is not None:
            await end_tasks((self._window,))
        self._warn()

    async def _warn_while_they_come(self) -> None:
        try:
            await self._clock.sleep(WINDOW_SECONDS)
            while self._unlogged:
                self._warn()
                await self._clock.sleep(WINDOW_SECONDS)
        finally:
            self._window = None

    def _warn(self) -> None:
        sample, counts = self._sample, dict(self._unlogged)
        self._sample = None
        self._unlogged.clear()
        if sample is None:
            return
        facts = {
            "refusals": sum(counts.values()),
            "reasons": counts,
            "reason": sample.reason,
            "door": sample.origin.door.value,
            "hint": sample.hint,
            "client": self._proxies.client_address(sample.origin.scope),
        }
        _log.warning("requests were refused for their key or origin", extra=facts)
