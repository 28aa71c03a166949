"""The rate limit of one provider: token buckets for requests and for tokens, and a queue that is fair between tenants.

Reserve, act, settle: actual usage corrects the reservation. A reservation never exceeds the bucket, so none waits forever.
Waiters are served by deficit round robin over their tenants, so a thousand waiters of one tenant cannot starve the only one of
another.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from types import TracebackType
from typing import Protocol

from app.domain.errors import ProviderError, Refused
from app.domain.usage import TokenUsage
from app.llm.routing import RateLimited
from app.runtime.clock import Clock
from app.runtime.tasks import create_shared_task
from app.settings import ProviderLimits, ProviderSettings

_MIN_WAIT = 0.001


class LimiterKind(Enum):
    REQUESTS = "REQUESTS"
    TOKENS = "TOKENS"


@dataclass(frozen=True, slots=True)
class LimiterState:
    """`model` is None if the limit covers the whole provider. `shared` is True if all processes use one bucket."""

    model: str | None
    kind: LimiterKind
    capacity: float
    available: float
    refill_per_second: float
    waiting: int
    shared: bool


@dataclass(frozen=True, slots=True)
class Rates:
    """The limits per minute; None means no limit."""

    requests: float | None
    tokens: float | None


_DEFAULT_RATES = {"anthropic": Rates(1_000, 100_000), "openai": Rates(10_000, 2_000_000), "openai-compatible": Rates(None, None)}
_SIMULATOR_RATES = Rates(1_000_000, 1_000_000_000)


def rates_of(settings: ProviderSettings) -> Rates:
    """Returns the configured rates, else the provider's usual ones. A simulator is limited only if the configuration says so."""
    usual = _SIMULATOR_RATES if settings.simulated else _DEFAULT_RATES[settings.kind.value]
    limits = settings.limits
    requests, tokens = limits.requests_per_minute, limits.tokens_per_minute
    return Rates(usual.requests if requests is None else requests, usual.tokens if tokens is None else tokens)


class Bucket:
    """Holds a minute's allowance and refills evenly. A settlement may overdraw it, by at most one whole bucket."""

    __slots__ = ("_at", "_available", "_clock", "capacity", "per_second")

    def __init__(self, per_minute: float, clock: Clock) -> None:
        self.capacity = per_minute
        self.per_second = per_minute / 60
        self._clock = clock
        self._available = per_minute
        self._at = clock.monotonic()

    @property
    def available(self) -> float:
        now = self._clock.monotonic()
        self._available = min(self.capacity, self._available + (now - self._at) * self.per_second)
        self._at = now
        return self._available

    def change(self, amount: float) -> None:
        self._available = max(-self.capacity, min(self.capacity, self.available + amount))

    def subtract(self, amount: float) -> None:
        """Takes an amount that was just seen to be available."""
        self._available = max(-self.capacity, self._available - amount)

    def seconds_until(self, amount: float) -> float:
        missing = amount - self.available
        return missing / self.per_second if missing > 0 else 0.0

    def resize(self, per_minute: float) -> None:
        """Changes the capacity. The same fraction of it stays available."""
        part = self.available / self.capacity
        self.capacity, self.per_second = per_minute, per_minute / 60
        self._available = part * per_minute


class Buckets(Protocol):
    """Where reservations are taken from: the buckets of this process, or those that all processes share."""

    def clamp(self, tokens: int) -> float:
        """The tokens that a reservation may ask for: never more than the bucket holds."""
        ...

    def take(self, tokens: float) -> bool:
        """Takes one request and these tokens now, or nothing."""
        ...

    def seconds_until(self, tokens: float) -> float:
        """How many seconds until `take` can succeed, as far as this process knows."""
        ...

    async def fetch(self, tokens: float, max_wait: float) -> float:
        """Call it after `take` failed: takes what is available and returns the seconds to wait before the next `take` (0: at
        once). `max_wait` is how long the caller waits at most."""
        ...

    def give(self, requests: float, tokens: float) -> None:
        """Puts back what a settlement corrects. Negative amounts are taken."""
        ...

    def states(self, waiting: int) -> list[LimiterState]: ...


class LocalBuckets:
    """The buckets of this process."""

    def __init__(self, rates: Rates, clock: Clock) -> None:
        self._requests = None if rates.requests is None else Bucket(rates.requests, clock)
        self._tokens = None if rates.tokens is None else Bucket(rates.tokens, clock)

    def clamp(self, tokens: int) -> float:
        return float(tokens) if self._tokens is None else min(float(tokens), self._tokens.capacity)

    def take(self, tokens: float) -> bool:
        requests, bucket = self._requests, self._tokens
        if (requests is not None and requests.available < 1) or (bucket is not None and bucket.available < self._fitting(tokens)):
            return False
        if requests is not None:
            requests.subtract(1)
        if bucket is not None:
            bucket.subtract(tokens)
        return True

    async def fetch(self, tokens: float, max_wait: float) -> float:  # noqa: ARG002 - no other process to wait for
        return self.seconds_until(tokens)

    def seconds_until(self, tokens: float) -> float:
        requests = 0.0 if self._requests is None else self._requests.seconds_until(1)
        return max(requests, 0.0 if self._tokens is None else self._tokens.seconds_until(self._fitting(tokens)))

    def give(self, requests: float, tokens: float) -> None:
        if self._requests is not None and requests:
            self._requests.change(requests)
        if self._tokens is not None and tokens:
            self._tokens.change(tokens)

    def missing(self) -> tuple[float, float]:
        """The requests and tokens that are missing now."""
        requests, tokens = (0.0 if bucket is None else bucket.capacity - bucket.available for bucket in self._both())
        return requests, tokens

    def resize(self, rates: Rates) -> None:
        for bucket, rate in ((self._requests, rates.requests), (self._tokens, rates.tokens)):
            if bucket is not None and rate is not None and rate != bucket.capacity:
                bucket.resize(rate)

    def states(self, waiting: int) -> list[LimiterState]:
        return [
            LimiterState(None, kind, bucket.capacity, max(0.0, bucket.available), bucket.per_second, waiting, shared=False)
            for kind, bucket in ((LimiterKind.REQUESTS, self._requests), (LimiterKind.TOKENS, self._tokens))
            if bucket is not None
        ]

    def _both(self) -> tuple[Bucket | None, Bucket | None]:
        return self._requests, self._tokens

    def _fitting(self, tokens: float) -> float:
        """If a bucket shrinks while a call waits, the call must not wait forever."""
        return tokens if self._tokens is None else min(tokens, self._tokens.capacity)


@dataclass(eq=False, slots=True)
class _Waiter:
    tokens: float
    gives_up_at: float
    granted: asyncio.Future[bool]


class FairQueue:
    """Waiters in one queue per tenant. The next one is chosen by how much each tenant was served (deficit round robin)."""

    def __init__(self) -> None:
        self._lanes: dict[str, deque[_Waiter]] = {}
        self._turns: deque[str] = deque()
        self._deficits: dict[str, float] = {}
        self._quantum = 1.0

    def add(self, tenant: str, waiter: _Waiter) -> None:
        lane = self._lanes.get(tenant)
        if lane is None:
            lane = self._lanes[tenant] = deque()
            self._turns.append(tenant)
            self._deficits[tenant] = 0.0
        lane.append(waiter)
        self._quantum += (max(1.0, waiter.tokens) - self._quantum) / 8

    def head(self) -> _Waiter | None:
        """Returns whose turn it is. It stays the same until that waiter is popped or has given up."""
        while self._turns:
            tenant = self._turns[0]
            lane = self._lanes[tenant]
            while lane and lane[0].granted.done():
                lane.popleft()
            if not lane:
                self._remove_first()
            elif self._deficits[tenant] >= lane[0].tokens:
                return lane[0]
            elif len(self._turns) == 1:
                self._deficits[tenant] = lane[0].tokens
            else:
                self._turns.rotate(-1)
                self._deficits[self._turns[0]] += self._quantum
        return None

    def pop(self) -> None:
        """Removes the head, which was served."""
        tenant = self._turns[0]
        self._deficits[tenant] -= self._lanes[tenant].popleft().tokens

    def _remove_first(self) -> None:
        tenant = self._turns.popleft()
        del self._lanes[tenant], self._deficits[tenant]


class Reservation:
    """The reservation of one call. If it is left without a settlement, it is given back after a failure of the provider, else
    it counts as used in full."""

    __slots__ = ("_limiter", "_open", "_tokens")

    def __init__(self, limiter: Limiter, tokens: float) -> None:
        self._limiter = limiter
        self._tokens = tokens
        self._open = True

    def settle(self, usage: TokenUsage) -> None:
        """Settles what the call used."""
        self._close(0.0, self._tokens - self._limiter.counted(usage))

    def refund(self) -> None:
        """The request was made and used no tokens."""
        self._close(0.0, self._tokens)

    def release(self) -> None:
        """Nothing was sent."""
        self._close(1.0, self._tokens)

    def count_in_full(self) -> None:
        """The usage is unknown, so all of it counts."""
        self._close(0.0, 0.0)

    def _close(self, requests: float, tokens: float) -> None:
        if self._open:
            self._open = False
            self._limiter.give(requests, tokens)


class _Reserving:
    """Use it as `async with limiter.reserve(…) as hold`."""

    def __init__(self, limiter: Limiter, tenant: str, tokens: int, deadline: float) -> None:
        self._limiter = limiter
        self._asked = (tenant, tokens, deadline)
        self._hold: Reservation | None = None

    async def __aenter__(self) -> Reservation:
        self._hold = await self._limiter.acquire(*self._asked)
        return self._hold

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._hold is not None
        if isinstance(error, ProviderError):
            self._hold.refund()
        self._hold.count_in_full()


class Limiter:
    def __init__(self, scope: str, limits: ProviderLimits, buckets: Buckets, clock: Clock, *, cached_is_free: bool) -> None:
        self._scope = scope
        self._limits = limits
        self._buckets = buckets
        self._clock = clock
        self._cached_is_free = cached_is_free
        self._queue = FairQueue()
        self._waiting = 0
        self._deadlines: list[tuple[float, int, _Waiter]] = []
        self._order = itertools.count()
        self._woken = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None

    @property
    def states(self) -> list[LimiterState]:
        return self._buckets.states(self._waiting)

    def seconds_until(self, tokens: int) -> float:
        """About how many seconds a reservation would wait now. It is 0 if there is room for it and for the waiters before it,
        even if a waiter still waits for Redis to confirm: that is no reason to choose another target."""
        head = self._queue.head() if self._waiting else None
        seconds = self._buckets.seconds_until(self._buckets.clamp(tokens))
        return seconds if head is None else max(seconds, self._buckets.seconds_until(head.tokens))

    def reserve(self, tenant: str, tokens: int, deadline: float) -> _Reserving:
        return _Reserving(self, tenant, tokens, deadline)

    async def acquire(self, tenant: str, tokens: int, deadline: float) -> Reservation:
        """Takes one request and these tokens. Waits until the queue's timeout or the deadline. Raises Refused(RateLimited)."""
        amount = self._buckets.clamp(tokens)
        if self._waiting or not self._buckets.take(amount):
            await self._wait(tenant, amount, deadline)
        return Reservation(self, amount)

    def counted(self, usage: TokenUsage) -> int:
        return usage.total_tokens - usage.cached_input_tokens if self._cached_is_free else usage.total_tokens

    def give(self, requests: float, tokens: float) -> None:
        if requests or tokens:
            self._buckets.give(requests, tokens)
            self._woken.set()

    async def close(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)

    async def _wait(self, tenant: str, amount: float, deadline: float) -> None:
        if self._waiting >= self._limits.max_waiting:
            raise self._refusal("has too many calls waiting", amount)
        gives_up_at = min(deadline, self._clock.monotonic() + self._limits.queue_timeout.total_seconds())
        waiter = _Waiter(amount, gives_up_at, asyncio.get_running_loop().create_future())
        self._queue.add(tenant, waiter)
        heapq.heappush(self._deadlines, (gives_up_at, next(self._order), waiter))
        self._waiting += 1
        self._woken.set()
        if self._pump is None or self._pump.done():
            self._pump = create_shared_task(self._serve())
            self._pump.add_done_callback(self._served)
        try:
            granted = await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled() and waiter.granted.result():
                self.give(1.0, amount)
            self._woken.set()
            raise
        finally:
            self._waiting -= 1
        if not granted:
            raise self._refusal("had no room in time", amount)

    async def _serve(self) -> None:
        """Serves waiters in turn until none is left."""
        while (waiter := self._queue.head()) is not None:
            self._woken.clear()
            if self._buckets.take(waiter.tokens):
                self._queue.pop()
                waiter.granted.set_result(True)
                continue
            seconds = await self._buckets.fetch(waiter.tokens, waiter.gives_up_at - self._clock.monotonic())
            if seconds > 0 and not self._woken.is_set():
                await self._pause(max(seconds, _MIN_WAIT))
            self._expire_late_waiters()
        self._deadlines.clear()

    def _served(self, pump: asyncio.Task[None]) -> None:
        """If the loop failed, gives every waiter the error."""
        if pump.cancelled() or (error := pump.exception()) is None:
            return
        for _, _, waiter in self._deadlines:
            if not waiter.granted.done():
                waiter.granted.set_exception(error)
        self._deadlines.clear()

    async def _pause(self, seconds: float) -> None:
        """Waits until the time is up, a waiter's time runs out, or something was given back."""
        seconds = min(seconds, max(0.0, self._deadlines[0][0] - self._clock.monotonic()))
        waits = (asyncio.ensure_future(self._clock.sleep(seconds)), asyncio.ensure_future(self._woken.wait()))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _expire_late_waiters(self) -> None:
        now = self._clock.monotonic()
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][2].granted.done()):
            waiter = heapq.heappop(self._deadlines)[2]
            if not waiter.granted.done():
                waiter.granted.set_result(False)

    def _refusal(self, problem: str, amount: float) -> Refused:
        seconds = max(self._buckets.seconds_until(amount), 1.0)
        return Refused(RateLimited(f"The rate limit of {self._scope} {problem}.", timedelta(seconds=seconds), self._scope))
