"""How much a process takes on at once: calls, and bytes of bodies. What is over is refused before anything is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta

from app.errors import Overloaded


class Capacity:
    """Counts what is in flight, in calls or in bytes; past `limit` it raises Overloaded."""

    def __init__(self, limit: int, retry_after: timedelta) -> None:
        self._limit = limit
        self._retry_after_ms = max(1, round(retry_after.total_seconds() * 1000))
        self.in_flight = 0

    def take(self, amount: int) -> None:
        if self.in_flight + amount > self._limit:
            raise Overloaded(self._retry_after_ms)
        self.in_flight += amount

    def give_back(self, amount: int) -> None:
        self.in_flight -= amount

    @contextmanager
    def held(self, amount: int) -> Iterator[None]:
        self.take(amount)
        try:
            yield
        finally:
            self.give_back(amount)

    def one(self) -> AbstractContextManager[None]:
        return self.held(1)
