"""What is left of a model's rate limit, as the headers of its last answer say.

It is a hint, not a limit. It holds back only the calls to that model, refills at the provider's rate, and the newest one
counts. The provider's configured limits are in the Limiter.
"""

from __future__ import annotations

from datetime import timedelta

from app.domain.errors import Refused
from app.domain.usage import RateLimitReport
from app.llm.resilience.limiter import Bucket, LimiterKind, LimiterState, Rates
from app.llm.routing import RateLimited, Target
from app.runtime.clock import Clock

_OUTPUT_PART = 0.125
"""The largest part of a minute's tokens that one call takes for its output before it is sent. If it took the whole minute, all
others would wait until the bucket is full."""


class ModelAllowance:
    def __init__(self, target: Target, rates: Rates, queue_timeout: timedelta, clock: Clock) -> None:
        self._target = target
        self._queue_seconds = queue_timeout.total_seconds()
        self._clock = clock
        self._rates = {LimiterKind.REQUESTS: rates.requests, LimiterKind.TOKENS: rates.tokens}
        self._buckets: dict[LimiterKind, Bucket] = {}

    def apply(self, report: RateLimitReport) -> None:
        """A report only matters if it is less than the provider's whole minute."""
        reported = {LimiterKind.REQUESTS: report.requests_remaining, LimiterKind.TOKENS: report.tokens_remaining}
        for kind, remaining in reported.items():
            rate = self._rates[kind]
            if rate is None or remaining is None:
                continue
            bucket = self._buckets.get(kind)
            if bucket is None:
                if remaining >= rate:
                    continue
                bucket = self._buckets[kind] = Bucket(rate, self._clock)
            bucket.change(min(remaining, rate) - bucket.available)

    def reservation(self, input_tokens: int, output_cap: int) -> int:
        """The tokens to take for a call before it is sent. Any further output is settled when the call ends."""
        rate = self._rates[LimiterKind.TOKENS]
        return input_tokens + (output_cap if rate is None else min(output_cap, max(1, int(rate * _OUTPUT_PART))))

    def seconds_until(self, tokens: float) -> float:
        return max((bucket.seconds_until(self._amount(kind, tokens)) for kind, bucket in self._buckets.items()), default=0.0)

    async def take(self, tokens: float, deadline: float) -> None:
        """Takes one request and these tokens. Waits as long as at the Limiter. Raises Refused(RateLimited)."""
        until = min(deadline, self._clock.monotonic() + self._queue_seconds)
        while (seconds := self.seconds_until(tokens)) > 0:
            if self._clock.monotonic() + seconds > until:
                message = f"The rate limit of {self._target} had no room in time."
                raise Refused(RateLimited(message, timedelta(seconds=max(seconds, 1.0)), str(self._target)))
            await self._clock.sleep(seconds)
        for kind, bucket in self._buckets.items():
            bucket.subtract(self._amount(kind, tokens))

    def states(self) -> list[LimiterState]:
        return [
            LimiterState(
                self._target.model, kind, bucket.capacity, max(0.0, bucket.available), bucket.per_second, 0, shared=False
            )
            for kind, bucket in self._buckets.items()
        ]

    def _amount(self, kind: LimiterKind, tokens: float) -> float:
        return 1.0 if kind is LimiterKind.REQUESTS else min(tokens, self._buckets[kind].capacity)
