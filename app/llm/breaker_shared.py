"""A breaker whose news all processes hear."""

from __future__ import annotations

from app.llm.breaker import Breaker, BreakerState, Permit


class SharedBreaker:
    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker

    @property
    def state(self) -> BreakerState:
        return self._breaker.state

    @property
    def seconds_to_probe(self) -> float:
        return self._breaker.seconds_to_probe

    async def enter(self) -> Permit | None:
        return self._breaker.enter()

    def succeeded(self, permit: Permit) -> None:
        self._breaker.succeeded(permit)

    def failed(self, permit: Permit) -> None:
        self._breaker.failed(permit)

    def released(self, permit: Permit) -> None:
        self._breaker.released(permit)

    async def reset(self) -> None:
        self._breaker.close()
