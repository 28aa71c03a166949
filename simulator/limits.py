"""Rate-limit counters. Every answer's headers show them. Calls are refused only if the limits are enforced."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import msgspec

from simulator.models import ProviderName

HeaderList = list[tuple[bytes, bytes]]
_WINDOW_SECONDS = 60.0


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Each key's allowance per minute. The default is large, so the limits do not slow down a benchmark."""

    requests_per_minute: int = 10_000_000
    tokens_per_minute: int = 10_000_000_000
    enforce: bool = False


class _Bucket:
    __slots__ = ("capacity", "level", "seen")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.level = float(capacity)
        self.seen = time.monotonic()

    def refill(self, now: float) -> None:
        self.level = min(self.capacity, self.level + (now - self.seen) * self.capacity / _WINDOW_SECONDS)
        self.seen = now

    def wait_for(self, amount: float) -> float:
        """Seconds until that much is available."""
        return max(0.0, (min(amount, self.capacity) - self.level) * _WINDOW_SECONDS / self.capacity)

    @property
    def remaining(self) -> int:
        return max(0, int(self.level))

    @property
    def full_in(self) -> float:
        return (self.capacity - self.level) * _WINDOW_SECONDS / self.capacity


class Counters:
    """One pair of buckets for each provider and key."""

    def __init__(self, limits: Limits) -> None:
        self._limits: dict[ProviderName, Limits] = {"anthropic": limits, "openai": limits}
        self._buckets: dict[tuple[ProviderName, str], tuple[_Bucket, _Bucket]] = {}

    def configure(self, provider: ProviderName, limits: Limits) -> None:
        self._limits[provider] = limits
        self._buckets = {place: pair for place, pair in self._buckets.items() if place[0] != provider}

    def configured(self) -> dict[ProviderName, Limits]:
        return dict(self._limits)

    def take(self, provider: ProviderName, key: str, tokens: int) -> float:
        """Counts a call. Returns 0, or the seconds to wait if limits are enforced and the call does not fit."""
        requests, allowance = self._pair(provider, key)
        now = time.monotonic()
        requests.refill(now)
        allowance.refill(now)
        if self._limits[provider].enforce:
            wait = max(requests.wait_for(1), allowance.wait_for(tokens))
            if wait > 0:
                return wait
        requests.level = max(0.0, requests.level - 1)
        allowance.level = max(0.0, allowance.level - tokens)
        return 0.0

    def headers(self, provider: ProviderName, key: str) -> HeaderList:
        requests, tokens = self._pair(provider, key)
        if provider == "openai":
            return [
                (b"x-ratelimit-limit-requests", b"%d" % requests.capacity),
                (b"x-ratelimit-limit-tokens", b"%d" % tokens.capacity),
                (b"x-ratelimit-remaining-requests", b"%d" % requests.remaining),
                (b"x-ratelimit-remaining-tokens", b"%d" % tokens.remaining),
                (b"x-ratelimit-reset-requests", b"%dms" % (requests.full_in * 1000)),
                (b"x-ratelimit-reset-tokens", b"%dms" % (tokens.full_in * 1000)),
            ]
        return [
            (b"anthropic-ratelimit-requests-limit", b"%d" % requests.capacity),
            (b"anthropic-ratelimit-requests-remaining", b"%d" % requests.remaining),
            (b"anthropic-ratelimit-requests-reset", _moment(requests.full_in)),
            (b"anthropic-ratelimit-tokens-limit", b"%d" % tokens.capacity),
            (b"anthropic-ratelimit-tokens-remaining", b"%d" % tokens.remaining),
            (b"anthropic-ratelimit-tokens-reset", _moment(tokens.full_in)),
        ]

    def _pair(self, provider: ProviderName, key: str) -> tuple[_Bucket, _Bucket]:
        pair = self._buckets.get((provider, key))
        if pair is None:
            limits = self._limits[provider]
            pair = self._buckets[provider, key] = _Bucket(limits.requests_per_minute), _Bucket(limits.tokens_per_minute)
        return pair


def _moment(seconds: float) -> bytes:
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    return at.isoformat(timespec="seconds").replace("+00:00", "Z").encode()
