"""The circuit breaker of one provider's model: a state machine whose only inputs are time and the outcomes of calls.

CLOSED -> OPEN after `failures` in a row, or when too large a part of a window's calls failed;
OPEN -> HALF_OPEN once `probe_after` has passed, for exactly one call;
that call decides: CLOSED or OPEN again.

A permit from an earlier state says nothing about the present one. If a probe is never reported, it expires, and another call
may probe. A call counts once, even if it is tried several times: its first failed try counts at once, further ones add nothing,
and a success removes the failure. Failures of the same prompt count at most twice in a window, because a prompt that a target
cannot process is no outage.

Calls count in the order of their first sign: a failure, a whole answer, or the first token of a stream. A first token is a
success. If its stream is cut later, the success becomes a failure in the same place. So many cut streams in a row do open the
breaker, and many long streams that still run do not.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from app.runtime.clock import Clock
from app.settings import BreakerSettings


class BreakerStatus(Enum):
    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


@dataclass(frozen=True, slots=True)
class BreakerState:
    """`consecutive_failures` is counted up to the number that opens the breaker. `probe_at` is when the next probe is allowed;
    None unless OPEN."""

    status: BreakerStatus
    consecutive_failures: int
    opened_count: int
    changed_at: datetime
    probe_at: datetime | None


@dataclass(eq=False, slots=True)
class _Sign:
    """What a call showed of its target, and when it first did, in the Clock's monotonic seconds."""

    at: float
    failed: bool
    prompt: int | None = None


@dataclass(eq=False, slots=True)
class Permit:
    """Permission for one call. Its holder reports exactly one of succeeded, failed and released. A stream calls `alive` before
    that."""

    epoch: int
    probe: bool
    sign: _Sign | None = None
    earlier: _Sign | None = None

    @property
    def failure(self) -> _Sign | None:
        """How the call's earlier failed tries were counted."""
        return self.sign if self.sign is not None and self.sign.failed else self.earlier


PROBE_LEASE_SECONDS = 90.0
_WINDOW_CALLS = 500
_MAX_FAILURES_OF_A_PROMPT = 2


class Breaker:
    def __init__(self, settings: BreakerSettings, clock: Clock, changed: Callable[[BreakerState], None]) -> None:
        self._settings = settings
        self._clock = clock
        self._changed = changed
        self._status = BreakerStatus.CLOSED
        self._changed_at = clock.now()
        self._opened = 0
        self._epoch = 0
        self._probe_at = 0.0
        self._lease_until = 0.0
        self._last_success: float | None = None
        self._latest: deque[_Sign] = deque(maxlen=settings.failures)
        self._window: deque[_Sign] = deque(maxlen=_WINDOW_CALLS)

    @property
    def status(self) -> BreakerStatus:
        return self._status

    @property
    def state(self) -> BreakerState:
        probe_at = None
        if self._status is BreakerStatus.OPEN:
            probe_at = self._clock.now() + timedelta(seconds=max(0.0, self._probe_at - self._clock.monotonic()))
        return BreakerState(self._status, self._in_a_row, self._opened, self._changed_at, probe_at)

    @property
    def seconds_to_probe(self) -> float:
        """How many seconds calls are still refused; 0 if one is allowed now."""
        if self._status is BreakerStatus.CLOSED:
            return 0.0
        until = self._probe_at if self._status is BreakerStatus.OPEN else self._lease_until
        return max(0.0, until - self._clock.monotonic())

    def enter(self, earlier: Permit | None = None) -> Permit | None:
        """Returns permission to call now, or None. When OPEN has lasted long enough, the first call that asks becomes the
        probe. `earlier` is the permit of the same call's previous try."""
        if self._status is BreakerStatus.CLOSED:
            counted = None if earlier is None or earlier.epoch != self._epoch else earlier.failure
            return Permit(self._epoch, probe=False, earlier=counted)
        if self.seconds_to_probe > 0:
            return None
        self._lease_until = self._clock.monotonic() + PROBE_LEASE_SECONDS
        self._become(BreakerStatus.HALF_OPEN)
        return Permit(self._epoch, probe=True)

    def alive(self, permit: Permit) -> None:
        """Records the first token. The first token of a probe closes the breaker on trial: if its stream is cut, the failures
        before it count again."""
        if permit.epoch != self._epoch or permit.sign is not None:
            return
        self._forget(permit.earlier)
        permit.earlier = None
        if permit.probe:
            self.close()
            permit.epoch, permit.probe = self._epoch, False
            before = self._clock.monotonic()
            self._latest.extend(_Sign(before, failed=True) for _ in range(self._settings.failures - 1))
        permit.sign = self._remember(failed=False)

    def succeeded(self, permit: Permit) -> None:
        if permit.epoch != self._epoch:
            return
        self._forget(permit.earlier)
        if permit.probe:
            self.close()
            self._last_success = self._clock.monotonic()
        elif permit.sign is None:
            self._remember(failed=False)
        else:
            self._last_success = self._clock.monotonic()
            self._latest.append(permit.sign)

    def failed(self, permit: Permit, prompt: int | None = None) -> None:
        """`prompt` is the same number for the same prompt. None means unknown, so it differs from every other."""
        if permit.epoch != self._epoch or permit.earlier is not None:
            return
        if self._has_failed_often(prompt):
            self._forget(permit.sign)
            return
        if permit.sign is None:
            permit.sign = self._remember(failed=True, prompt=prompt)
        else:
            permit.sign.failed, permit.sign.prompt = True, prompt
            if permit.sign.at < self._oldest:
                self._window.append(_Sign(self._clock.monotonic(), failed=True, prompt=prompt))
        if permit.probe or self._in_a_row >= self._settings.failures or self._rate_is_too_high():
            self.open(self._settings.probe_after.total_seconds())

    def released(self, permit: Permit) -> None:
        """Records that the call says nothing about the target: it was cancelled, refused or limited. A probe is given back."""
        if permit.probe and permit.epoch == self._epoch:
            self._probe_at = self._clock.monotonic()
            self._become(BreakerStatus.OPEN)

    def open(self, probe_after: float) -> None:
        """Refuses calls for `probe_after` seconds."""
        self._opened += 1
        self._probe_at = self._clock.monotonic() + probe_after
        self._window.clear()
        self._become(BreakerStatus.OPEN)

    def close(self) -> None:
        """Lets every call through and forgets the failures."""
        self._latest.clear()
        self._window.clear()
        if self._status is not BreakerStatus.CLOSED:
            self._become(BreakerStatus.CLOSED)

    def adopt_open(self, probe_after: float, opened: int) -> None:
        """Adopts that other processes saw the target fail. Does what `open` does, with their count."""
        self._opened = max(self._opened, opened)
        self._probe_at = self._clock.monotonic() + probe_after
        self._window.clear()
        if self._status is not BreakerStatus.OPEN:
            self._become(BreakerStatus.OPEN)

    def adopt_half_open(self, lease: float, opened: int) -> None:
        """Adopts that another process's probe is under way. It decides within `lease` seconds."""
        self._opened = max(self._opened, opened)
        self._lease_until = self._clock.monotonic() + lease
        if self._status is not BreakerStatus.HALF_OPEN:
            self._become(BreakerStatus.HALF_OPEN)

    def has_reason_to_doubt(self, recent: float) -> bool:
        """Whether this breaker saw failures itself, or no success in the last `recent` seconds."""
        return self._in_a_row > 0 or self._last_success is None or self._clock.monotonic() - self._last_success > recent

    def _become(self, status: BreakerStatus) -> None:
        self._status = status
        self._epoch += 1
        self._changed_at = self._clock.now()
        self._changed(self.state)

    @property
    def _in_a_row(self) -> int:
        """The number of failures since the newest success."""
        return sum(1 for _ in itertools.takewhile(lambda sign: sign.failed, reversed(self._latest)))

    @property
    def _oldest(self) -> float:
        """When the window begins."""
        return self._clock.monotonic() - self._settings.window.total_seconds()

    def _has_failed_often(self, prompt: int | None) -> bool:
        """Always False for a probe, because the window is empty then."""
        oldest = self._oldest
        failures = sum(sign.failed and sign.prompt == prompt and sign.at >= oldest for sign in self._window)
        return prompt is not None and failures >= _MAX_FAILURES_OF_A_PROMPT

    def _forget(self, sign: _Sign | None) -> None:
        for signs in (self._latest, self._window):
            if sign is not None and sign in signs:
                signs.remove(sign)

    def _remember(self, *, failed: bool, prompt: int | None = None) -> _Sign:
        sign = _Sign(self._clock.monotonic(), failed, prompt)
        self._latest.append(sign)
        self._window.append(sign)
        if not failed:
            self._last_success = sign.at
        return sign

    def _rate_is_too_high(self) -> bool:
        oldest = self._oldest
        while self._window and self._window[0].at < oldest:
            self._window.popleft()
        calls = len(self._window)
        failures = sum(sign.failed for sign in self._window)
        return calls >= self._settings.window_min_calls and failures / calls >= self._settings.failure_rate
