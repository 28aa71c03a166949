"""Points that a key may spend on documents: one bucket per key that fills at a steady rate. Each process has its own buckets."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from app.domain.errors import LimitExceeded
from app.runtime.clock import Clock

_MAX_BUCKETS = 10_000


@dataclass(frozen=True, slots=True)
class Allowance:
    """`capacity` and `remaining` are points. `restores_per_second` is how many points come back per second."""

    capacity: int
    remaining: int
    restores_per_second: float


@dataclass(slots=True)
class _Bucket:
    points: float
    filled_at: float


class AllowanceExceeded(LimitExceeded):
    """`retry_after_seconds` is when the requested points will be available."""

    def __init__(self, had: int, allowed: int, retry_after_seconds: float) -> None:
        super().__init__("allowance", had, allowed)
        self.retry_after_seconds = retry_after_seconds


class Allowances:
    def __init__(self, capacity: int, per_second: float, clock: Clock) -> None:
        self._capacity = capacity
        self._per_second = per_second
        self._clock = clock
        self._buckets: dict[UUID, _Bucket] = {}

    def take(self, key: UUID, points: int) -> Allowance:
        """Takes `points` and returns what is left. Raises AllowanceExceeded and takes nothing if there are too few.

        A document that costs more than a whole bucket takes all of a full one. Otherwise it could never run.
        """
        bucket = self._filled(key)
        asked = min(points, self._capacity)
        if bucket.points < asked:
            raise AllowanceExceeded(points, int(bucket.points), (asked - bucket.points) / self._per_second)
        bucket.points -= asked
        return self._seen(bucket)

    def give_back(self, key: UUID, points: int) -> Allowance:
        bucket = self._filled(key)
        bucket.points = min(float(self._capacity), bucket.points + points)
        return self._seen(bucket)

    def _seen(self, bucket: _Bucket) -> Allowance:
        return Allowance(self._capacity, int(bucket.points), self._per_second)

    def _filled(self, key: UUID) -> _Bucket:
        now = self._clock.monotonic()
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= _MAX_BUCKETS:
                self._forget_full(now)
            bucket = self._buckets[key] = _Bucket(float(self._capacity), now)
        else:
            bucket.points = min(float(self._capacity), bucket.points + (now - bucket.filled_at) * self._per_second)
            bucket.filled_at = now
        return bucket

    def _forget_full(self, now: float) -> None:
        """A bucket that is full again need not be kept, because a new one is the same."""
        for key, bucket in list(self._buckets.items()):
            if bucket.points + (now - bucket.filled_at) * self._per_second >= self._capacity:
                del self._buckets[key]
