"""The order in which a route's targets are tried.

An order does not depend on health: breakers and limiters are asked when a target is tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from random import Random

from app.domain.attempts import AttemptOutcome
from app.llm.metrics import AttemptFinished
from app.llm.routing import RoutingStrategy, Target
from app.runtime.clock import Clock

_FORGOTTEN_AFTER = 300.0
_DECAY_SECONDS = 60.0
_MAX_WEIGHT = 0.9
_EXPLORED_SHARE = 0.05
_MAX_TARGETS = 2000


class Latencies:
    """The recent time to the first token, or to the whole answer if it is not streamed. New values count more than old ones,
    and values that are too old are forgotten.

    A timeout counts with its full length, so a silent target does not look fast.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[tuple[str, str, bool], tuple[float, float]] = {}

    def add(self, finished: AttemptFinished) -> None:
        attempt = finished.attempt
        if attempt.outcome not in {AttemptOutcome.SUCCEEDED, AttemptOutcome.TIMED_OUT}:
            return
        sample = attempt.latency_ms if finished.first_token_ms is None else finished.first_token_ms
        key = (attempt.provider, attempt.model, finished.streamed)
        now = self._clock.monotonic()
        known = self._known.pop(key, None)
        if known is not None:
            weight = min(_MAX_WEIGHT, math.exp((known[1] - now) / _DECAY_SECONDS))
            sample = known[0] * weight + sample * (1 - weight)
        elif len(self._known) >= _MAX_TARGETS:
            del self._known[next(iter(self._known))]
        self._known[key] = (sample, now)

    def milliseconds(self, target: Target, *, streamed: bool) -> float | None:
        known = self._known.get((target.provider, target.model, streamed))
        if known is None or self._clock.monotonic() - known[1] > _FORGOTTEN_AFTER:
            return None
        return known[0]


class Ordering:
    def __init__(self, latencies: Latencies, random: Random) -> None:
        self._latencies = latencies
        self._random = random
        self._turns: dict[str | None, int] = {}

    def order(
        self,
        strategy: RoutingStrategy,
        targets: Sequence[Target],
        *,
        route: str | None,
        streamed: bool,
        estimate: Callable[[Target], Decimal | None],
        peek: bool = False,
    ) -> list[Target]:
        """Returns all of `targets`, best first. Equal ones keep the route's order. With `peek`, no turn is used and nothing is
        explored."""
        if strategy is RoutingStrategy.PRIORITY or len(targets) < 2:
            return list(targets)
        if strategy is RoutingStrategy.LEAST_COST:
            return sorted(targets, key=lambda target: _unknown_last(estimate(target)))
        if strategy is RoutingStrategy.LEAST_LATENCY:
            return self._by_latency(targets, streamed=streamed, explore=not peek)
        if strategy is RoutingStrategy.ROUND_ROBIN:
            turn = self._turns.get(route, 0)
            if not peek:
                self._turns[route] = turn + 1
            turn %= len(targets)
            return [*targets[turn:], *targets[:turn]]
        return self._random.sample(list(targets), len(targets))

    def _by_latency(self, targets: Sequence[Target], *, streamed: bool, explore: bool) -> list[Target]:
        """Targets without a known latency come first. Now and then any other target comes first, because latencies are only
        known from calls."""
        ordered = sorted(targets, key=lambda target: self._latencies.milliseconds(target, streamed=streamed) or 0.0)
        if explore and self._random.random() < _EXPLORED_SHARE:
            ordered.insert(0, ordered.pop(self._random.randrange(len(ordered))))
        return ordered


def _unknown_last(cost: Decimal | None) -> tuple[bool, Decimal]:
    return (cost is None, cost or Decimal(0))
