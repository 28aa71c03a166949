"""When the same target is tried again: exponential backoff, half of it fixed and half random, within the call's deadline.

A budget per provider limits retries to a fifth of the requests plus a few a second, so retries cannot multiply the load of an
outage.
"""

from __future__ import annotations

from datetime import timedelta
from random import Random

from app.domain.errors import FailureKind, ProviderError
from app.domain.usage import TokenUsage
from app.runtime.clock import Clock
from app.settings import RetrySettings

_SAVED_SECONDS = 10.0
_SHORT_OF_TRIES = 2
_HAD_BEGUN = frozenset({FailureKind.MALFORMED, FailureKind.TRUNCATED})


def asked_again(kind: FailureKind) -> str:
    """Whether the same target is tried again after such a failure, in words for the documentation."""
    if kind is FailureKind.NOT_IMPLEMENTED:
        return "once, if no target is left"
    if not ProviderError(kind).retryable:
        return "no"
    if kind is FailureKind.MALFORMED:
        return "if it cost nothing; a broken stream that did once, if no target is left"
    if ProviderError(kind, usage=TokenUsage(confirmed=False)).was_bought:
        return "if it cost nothing"
    return "if it came without figures" if kind is FailureKind.TRUNCATED else "yes"


class RetryBudget:
    """`ratio` of the requests plus `per_second` may be retries. Unused retries are saved for up to ten seconds."""

    def __init__(self, ratio: float, per_second: float, clock: Clock) -> None:
        self._ratio = ratio
        self._per_second = per_second
        self._clock = clock
        self._largest = max(1.0, per_second * _SAVED_SECONDS)
        self._balance = self._largest
        self._at = clock.monotonic()

    def request(self) -> None:
        """Records a first try."""
        self._balance = min(self._largest, self._balance + self._ratio)

    def withdraw(self) -> bool:
        """Takes one retry. Returns False if the budget is used up."""
        now = self._clock.monotonic()
        self._balance = min(self._largest, self._balance + (now - self._at) * self._per_second)
        self._at = now
        if self._balance < 1.0:
            return False
        self._balance -= 1.0
        return True


class Retry:
    """Decides about all retries of one provider."""

    def __init__(self, settings: RetrySettings, clock: Clock, random: Random, *, silence: timedelta) -> None:
        """If a try had no answer for `silence`, its target is not tried again."""
        self._settings = settings
        self._silence = silence.total_seconds()
        self._clock = clock
        self._random = random
        self._first = settings.first_delay.total_seconds()
        self._longest = settings.max_delay.total_seconds()
        self.budget = RetryBudget(settings.budget_ratio, settings.budget_per_second, clock)

    def delay(
        self,
        tries: int,
        error: ProviderError,
        deadline: float,
        *,
        is_last_target: bool,
        seconds: float = 0.0,
        begins_anew: bool = False,
    ) -> float | None:
        """Returns the seconds to wait before the next try after `tries` failed ones; None if there is no next try.

        `retry-after` is a lower bound. If `is_last_target` is False, another target is left. Then there is at most one more try
        here, and none if its wait is longer than the longest backoff. What was paid for is not bought again. Two failures are
        tried once more, and only at the last target, because another try seldom repairs them: a charged stream that came broken,
        and a method that the server does not implement. `seconds` is how long the last try took. If a target gave no answer for
        as long as a first token may take, it is not tried again. `begins_anew`: a part of the answer was shown, and the caller
        wants another one. A target that then fell silent is tried once more, and only if it is the last one.
        """
        if not begins_anew and (error.was_bought or (seconds >= self._silence and error.kind not in _HAD_BEGUN)):
            return None
        fell_silent = begins_anew and error.kind is FailureKind.IDLE_TIMEOUT
        is_broken = error.kind is FailureKind.MALFORMED and error.usage is not None
        is_doubtful = is_broken or fell_silent or error.kind is FailureKind.NOT_IMPLEMENTED
        is_short = is_doubtful or not is_last_target
        most = min(self._settings.attempts, _SHORT_OF_TRIES) if is_short else self._settings.attempts
        if not (error.retryable or fell_silent) or tries >= most or (is_doubtful and not is_last_target):
            return None
        delay = self.backoff(tries)
        if error.retry_after is not None:
            delay = max(delay, error.retry_after.total_seconds())
        if delay > self._longest and not is_last_target:
            return None
        if self._clock.monotonic() + delay >= deadline:
            return None
        return delay if self.budget.withdraw() else None

    def backoff(self, tries: int) -> float:
        longest = min(self._longest, self._first * 2.0 ** min(tries - 1, 30))
        return longest / 2 + self._random.random() * longest / 2
