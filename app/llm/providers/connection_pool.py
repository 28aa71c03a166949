"""The connections to one provider, shared by the rule of app.web.capacity: one key's slow calls leave some connections to
others.

A call waits if there is no free connection. A returned connection goes to a holder that may have it now. The calls of one
holder keep their order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import timedelta

from app.domain.errors import Overloaded
from app.web.capacity import Capacity, Holder, Shares

PROBES = Holder("probes", "")
"""Probes are one holder, as a tenant is."""


class ConnectionPool:
    def __init__(self, size: int) -> None:
        self._capacity = Capacity(size, timedelta(seconds=1), Shares(for_admin=0))
        self._waiting: dict[Holder, deque[asyncio.Future[None]]] = {}

    def take(self, holder: Holder) -> bool:
        """Takes a connection if the holder may have one now. Returns whether it did."""
        return holder not in self._waiting and self._take(holder)

    async def wait(self, holder: Holder) -> None:
        """Returns when the holder has a connection."""
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(holder, deque()).append(given)
        try:
            await given
        except asyncio.CancelledError:
            if given.done() and not given.cancelled():
                self.give_back(holder)
            else:
                self._forget(holder, given)
            raise

    def give_back(self, holder: Holder) -> None:
        self._capacity.give_back(holder, 1)
        for waiter, futures in list(self._waiting.items()):
            while futures and (futures[0].done() or self._take(waiter)):
                first = futures.popleft()
                if not first.done():
                    first.set_result(None)
            if not futures:
                del self._waiting[waiter]

    def _take(self, holder: Holder) -> bool:
        try:
            self._capacity.take(holder, 1)
        except Overloaded:
            return False
        return True

    def _forget(self, holder: Holder, given: asyncio.Future[None]) -> None:
        futures = self._waiting.get(holder)
        if futures is not None and given in futures:
            futures.remove(given)
            if not futures:
                del self._waiting[holder]
