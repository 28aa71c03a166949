"""Whether this process can serve. It is not ready only if something is away that it needs to serve. Anything else that is away
makes it degraded, because taking the process out of service would not help."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from app.domain.errors import GreenLangError, StoreUnavailable
from app.runtime.clock import Clock
from app.runtime.drain import Drain
from app.runtime.tasks import create_shared_task

READY_CACHED_SECONDS = 5.0
STARTED_CACHED_SECONDS = 30.0
TIMEOUT_SECONDS = 0.8
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Check:
    """`probe` returns if all is well and raises if not. If `required` is true, the process cannot serve without it."""

    name: str
    probe: Callable[[], Awaitable[None]]
    required: bool = False


class Down(GreenLangError):
    """It answers, or its monitor does, and it cannot be used. A message is a category that may be shown."""


class Verdict(Enum):
    OK = "ok"
    DEGRADED = "degraded"
    DRAINING = "draining"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    ok: bool
    required: bool
    took_ms: float
    reason: str | None = None
    """Why it is not well, as a category; never an address or a text of the store."""


@dataclass(frozen=True, slots=True)
class Report:
    checks: tuple[Finding, ...]
    draining: bool = False

    @property
    def verdict(self) -> Verdict:
        return Verdict.DRAINING if self.draining else self.checked

    @property
    def checked(self) -> Verdict:
        """What the checks say, also while the process drains."""
        if not all(finding.ok for finding in self.checks if finding.required):
            return Verdict.UNAVAILABLE
        return Verdict.OK if all(finding.ok for finding in self.checks) else Verdict.DEGRADED


class Health:
    def __init__(self, checks: Sequence[Check], clock: Clock, drain: Drain) -> None:
        self._drain = drain
        required = [check for check in checks if check.required]
        self._ready = _Cached(checks, READY_CACHED_SECONDS, clock, keep_failures=True)
        self._started = _Cached(required, STARTED_CACHED_SECONDS, clock, keep_failures=False)

    async def ready(self) -> Report:
        """The results of all checks, run in parallel, at most 5 s old. Takes less than a second. A process that stops checks
        nothing and says so at once."""
        if self._drain.begun:
            return Report((), draining=True)
        return await self._ready.report()

    async def details(self) -> Report:
        """What `ready` says, with the checks also while the process drains."""
        return replace(await self._ready.report(), draining=self._drain.begun)

    async def started(self) -> Report:
        """The results of the required checks: fresh until they have passed once, then at most 30 s old."""
        return await self._started.report()


class _Cached:
    """A caller that asks while the checks run waits for the same run."""

    def __init__(self, checks: Sequence[Check], seconds: float, clock: Clock, *, keep_failures: bool) -> None:
        self._checks = checks
        self._seconds = seconds
        self._clock = clock
        self._keep_failures = keep_failures
        self._kept: tuple[Report, float] | None = None
        self._running: asyncio.Task[Report] | None = None

    async def report(self) -> Report:
        if self._kept is not None and self._clock.monotonic() - self._kept[1] < self._seconds:
            return self._kept[0]
        if self._running is None:
            self._running = create_shared_task(self._run())
            self._running.add_done_callback(self._forget)
        return await asyncio.shield(self._running)

    def _forget(self, _: asyncio.Task[Report]) -> None:
        self._running = None

    async def _run(self) -> Report:
        report = Report(tuple(await asyncio.gather(*(_find(check, self._clock) for check in self._checks))))
        if self._keep_failures or report.verdict is not Verdict.UNAVAILABLE:
            self._kept = (report, self._clock.monotonic())
        return report


async def _find(check: Check, clock: Clock) -> Finding:
    begun = clock.monotonic()
    probe = asyncio.ensure_future(check.probe())
    timer = asyncio.ensure_future(clock.sleep(TIMEOUT_SECONDS))
    try:
        await asyncio.wait({probe, timer}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        timer.cancel()
        if not probe.done():
            probe.cancel()
    error = probe.exception() if probe.done() and not probe.cancelled() else TimeoutError()
    if error is not None and not isinstance(error, (GreenLangError, TimeoutError)):
        _log.error("a health check failed", exc_info=error, extra={"check": check.name})
    took_ms = round((clock.monotonic() - begun) * 1000, 3)
    return Finding(check.name, error is None, check.required, took_ms, None if error is None else _reason(error))


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, StoreUnavailable):
        return "unavailable"
    return (str(error) or "down") if isinstance(error, Down) else "the check failed"
