"""One limit for all processes. Whatever is reserved here was first taken from buckets in Redis.

A process holds a small stock, about what it used in the last quarter of a second, so most reservations need no round trip. It
returns what it does not need. The stock was taken from the buckets, so the sum never exceeds the limit. While Redis is away,
each process keeps to its share: the limit divided by the last known number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast
from uuid import uuid4

from app.domain.errors import StoreUnavailable
from app.llm.resilience.limiter import LimiterKind, LimiterState, LocalBuckets, Rates
from app.redis.clients import RedisClient, Script
from app.runtime.clock import Clock

_HAND_SHARE = 0.05
_LOOK_EVERY_SECONDS = 2.0
_ASK_AGAIN_SECONDS = 1.0
_HEARTBEAT_SECONDS = 5.0
_GONE_AFTER_SECONDS = 15
_UNKNOWN = -1.0


class Peers:
    """The number of processes that share the limits, including this one. While Redis is away, it is the last known number."""

    def __init__(self, redis: RedisClient, clock: Clock, *, expected: int, namespace: str) -> None:
        self.count = max(1, expected)
        self._redis = redis
        self._clock = clock
        self._key = f"{namespace}:processes"
        self._name = uuid4().hex
        self._script = Script("peers")
        self._beat_at = float("-inf")

    async def beat(self) -> None:
        """Reports, every few seconds, that this process is alive."""
        now = self._clock.monotonic()
        if now - self._beat_at < _HEARTBEAT_SECONDS:
            return
        self._beat_at = now
        count = await self._redis.evaluate(self._script, self._key, self._name, _GONE_AFTER_SECONDS)
        self.count = max(1, cast(int, count))

    async def leave(self) -> None:
        await self._redis.evaluate(self._script, self._key, self._name, 0)


@dataclass(frozen=True, slots=True)
class _Booking:
    """An amount that was taken from the shared buckets in advance. It may be used from `ready_at` on."""

    ready_at: float
    requests: float
    tokens: float


class SharedBuckets:
    """The Buckets of a Limiter. Call `sync` a few times a second."""

    def __init__(self, name: str, rates: Rates, redis: RedisClient, peers: Peers, clock: Clock, *, namespace: str) -> None:
        self._key = f"{namespace}:limit:{name}"
        self._rates = rates
        self._redis = redis
        self._peers = peers
        self._clock = clock
        self._script = Script("buckets")
        self._limits = (rates.requests, rates.tokens)
        self._hand = [0.0, 0.0]
        self._used = [0.0, 0.0]
        self._wished = [0.0, 0.0]
        self._seen = [limit or 0.0 for limit in self._limits]
        self._seen_at = clock.monotonic()
        self._stale = True
        self._booked: _Booking | None = None
        self._alone: LocalBuckets | None = None

    def clamp(self, tokens: int) -> float:
        return float(tokens) if self._rates.tokens is None else min(float(tokens), self._rates.tokens)

    def take(self, tokens: float) -> bool:
        if self._alone is not None:
            return self._alone.take(tokens)
        if self._booked is not None and self._booked.ready_at <= self._clock.monotonic():
            self._change_hand(self._booked.requests, self._booked.tokens)
            self._booked = None
        if not self._is_in_hand(tokens):
            return False
        self._change_hand(-1.0, -tokens)
        self._used[0] += 1.0
        self._used[1] += tokens
        return True

    def seconds_until(self, tokens: float) -> float:
        if self._alone is not None:
            return self._alone.seconds_until(tokens)
        if self._is_in_hand(tokens):
            return 0.0
        seconds = 0.0
        for limit, needed, hand, left in zip(self._limits, (1.0, tokens), self._hand, self._left(), strict=True):
            if limit is not None:
                seconds = max(seconds, (needed - hand - left) / (limit / 60))
        return seconds

    async def fetch(self, tokens: float, max_wait: float) -> float:
        if self._alone is not None:
            return await self._alone.fetch(tokens, max_wait)
        if self._booked is not None:
            return max(0.0, self._booked.ready_at - self._clock.monotonic())
        needed = [max(0.0, 1.0 - self._hand[0]), max(0.0, tokens - self._hand[1])]
        try:
            taken, seconds = await self._exchange([0.0, 0.0], needed, max(0.0, max_wait))
        except StoreUnavailable:
            self._go_alone()
            return 0.0
        if seconds > 0 and any(taken):
            self._booked = _Booking(self._clock.monotonic() + seconds, *taken)
            return seconds
        self._change_hand(*taken)
        return min(seconds, _ASK_AGAIN_SECONDS)

    def give(self, requests: float, tokens: float) -> None:
        if self._alone is not None:
            self._alone.give(requests, tokens)
        else:
            self._change_hand(requests, tokens)

    def states(self, waiting: int) -> list[LimiterState]:
        if self._alone is not None:
            return self._alone.states(waiting)
        kinds = zip((LimiterKind.REQUESTS, LimiterKind.TOKENS), self._limits, self._left(), self._hand, strict=True)
        return [
            LimiterState(None, kind, limit, min(limit, max(0.0, left + hand)), limit / 60, waiting, shared=True)
            for kind, limit, left, hand in kinds
            if limit is not None
        ]

    async def sync(self) -> None:
        """Returns what is not needed, takes what is, and reads what is left. Raises nothing."""
        self._wished = [min(2 * used, (limit or 0.0) * _HAND_SHARE) for used, limit in zip(self._used, self._limits, strict=True)]
        self._used = [0.0, 0.0]
        try:
            if self._alone is not None:
                await self._come_back(self._alone)
            elif self._has_news():
                await self._level()
        except StoreUnavailable:
            self._go_alone()

    async def give_all_back(self) -> None:
        """Returns the whole stock at the end. It is lost if Redis is away."""
        given, self._hand = self._hand, [0.0, 0.0]
        self._wished = [0.0, 0.0]
        if self._alone is None and any(given):
            try:
                await self._exchange(given, [0.0, 0.0], 0.0)
            except StoreUnavailable:
                self._go_alone()

    def _has_news(self) -> bool:
        looked = self._clock.monotonic() - self._seen_at < _LOOK_EVERY_SECONDS and not self._stale
        return any(self._wished) or any(self._surplus()) or not looked

    async def _level(self) -> None:
        surplus = self._surplus()
        self._change_hand(-surplus[0], -surplus[1])
        try:
            taken, _ = await self._exchange(surplus, [0.0, 0.0], 0.0)
        except StoreUnavailable:
            self._change_hand(*surplus)
            raise
        self._change_hand(*taken)

    def _surplus(self) -> list[float]:
        """What is returned to the buckets. Negative amounts are taken from them, because more was used than reserved."""
        if self._booked is not None:
            return [0.0, 0.0]
        pairs = zip(self._hand, self._wished, strict=True)
        return [hand - wished if hand < 0 or hand > 2 * wished else 0.0 for hand, wished in pairs]

    def _go_alone(self) -> None:
        """From now on keeps to this process's share, filled as the shared buckets were."""
        if self._alone is None:
            left = [left + hand for left, hand in zip(self._left(), self._hand, strict=True)]
            self._alone = LocalBuckets(self._share(), self._clock)
            missing = [
                min(0.0, each - (limit or 0.0)) / self._peers.count for each, limit in zip(left, self._limits, strict=True)
            ]
            self._alone.give(*missing)
            self._hand, self._booked = [0.0, 0.0], None

    async def _come_back(self, alone: LocalBuckets) -> None:
        """Goes back to the shared buckets and subtracts what was used meanwhile."""
        alone.resize(self._share())
        if self._redis.available:
            taken, _ = await self._exchange([-missing for missing in alone.missing()], [0.0, 0.0], 0.0)
            self._alone = None
            self._change_hand(*taken)

    def _share(self) -> Rates:
        requests, tokens = self._limits
        count = self._peers.count
        return Rates(None if requests is None else requests / count, None if tokens is None else tokens / count)

    def _left(self) -> list[float]:
        """What the shared buckets probably hold: the last known amounts and what was refilled since."""
        elapsed = self._clock.monotonic() - self._seen_at
        pairs = zip(self._limits, self._seen, strict=True)
        return [0.0 if limit is None else min(limit, seen + elapsed * limit / 60) for limit, seen in pairs]

    def _is_in_hand(self, tokens: float) -> bool:
        requests, bucket = self._limits
        return (requests is None or self._hand[0] >= 1.0) and (bucket is None or self._hand[1] >= tokens)

    def _change_hand(self, requests: float, tokens: float) -> None:
        if self._limits[0] is not None:
            self._hand[0] += requests
        if self._limits[1] is not None:
            self._hand[1] += tokens

    async def _exchange(self, given: list[float], needed: list[float], max_wait: float) -> tuple[list[float], float]:
        """Makes one round trip. Returns what was taken, and the seconds until it may be used."""
        limits = [_UNKNOWN if limit is None else limit for limit in self._limits]
        wished = [max(0.0, wish - max(0.0, hand)) for wish, hand in zip(self._wished, self._hand, strict=True)]
        arguments = (*limits, *given, *needed, *wished, max_wait)
        answer = cast(list[bytes], await self._redis.evaluate(self._script, self._key, *arguments))
        requests, tokens, seconds, *self._seen = (float(part) for part in answer)
        self._seen_at = self._clock.monotonic()
        self._stale = False
        return [requests, tokens], seconds
