"""Which calls run in this process, made known to the others by a lease each, and what becomes of a call whose owner died.

A call that others may come to watch, join or cancel has a lease in Redis that its owner renews, and that names it. If the lease
is gone, or its owner is a process of this machine that has ended, the first waiter settles the call at its estimate, and it ends
as failed. Without an answer from Redis no owner is taken for dead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from uuid import UUID

from app.costs.ledger import PostgresLedger
from app.domain.errors import StoreUnavailable
from app.events.stream_log import LogWrite, StreamLog
from app.runtime.batcher import Batcher
from app.runtime.clock import Clock

RENEWAL_SECONDS = 1.0
ORPHAN_CONFIRMATION_SECONDS = 1.5
"""After Redis was restarted an owner needs a moment to renew its leases."""
_AT_ONCE = 100
"""Leases that one exchange with Redis renews. Few enough that none takes long."""
_log = logging.getLogger(__name__)


class Leases:
    def __init__(self, clock: Clock, log: StreamLog, ledger: PostgresLedger) -> None:
        self._clock = clock
        self._stream_log = log
        self._ledger = ledger
        self._writes: Batcher[LogWrite, None] = Batcher(log.write)
        self._held: dict[UUID, Callable[[], object]] = {}

    def write(self, write: LogWrite) -> asyncio.Future[None]:
        """Lease and log, together with what others write at that moment; fails with StoreUnavailable."""
        return self._writes.submit(write)

    def hold(self, key: UUID, cancel: Callable[[], object]) -> None:
        """The call runs here from now on; `cancel` is called, perhaps several times, once it is to be stopped."""
        self._held[key] = cancel

    def drop(self, key: UUID) -> None:
        """The call has ended."""
        self._held.pop(key, None)

    async def cancel(self, key: UUID) -> None:
        """Its owner learns of it: here at once, elsewhere with the next renewal. Raises StoreUnavailable."""
        held = self._held.get(key)
        if held is not None:
            held()
        else:
            await self._stream_log.cancel(key)

    async def run_maintenance(self) -> None:
        """Renews the leases of the calls that run here and cancels those that are to be cancelled, until it is cancelled
        itself."""
        while True:
            await self._clock.sleep(RENEWAL_SECONDS)
            try:
                for keys in _parts(list(self._held)):
                    for key in await self._stream_log.renew(keys):
                        if key in self._held:
                            self._held[key]()
            except StoreUnavailable:
                _log.warning("no lease was renewed: Redis does not answer")
            except Exception:  # noqa: BLE001 without renewals others would reclaim every call of the process
                _log.exception("no lease was renewed")

    async def reclaim_if_owner_died(self, key: UUID) -> None:
        """As `reclaim_orphan`, if one look shows that its owner is dead: a process of this machine that has ended. Only one
        process does it: the call may run again at once, and must not be ended then."""
        with suppress(StoreUnavailable):
            if await self._stream_log.take_lease_of_dead_owner(key):
                await self._ledger.settle_orphan(key)

    async def reclaim_orphan(self, key: UUID) -> None:
        """Ends a running call if its owner is known to be dead, or if two looks find no owner. If the owner lives, or Redis does
        not answer, the call goes on."""
        if key in self._held:
            return
        with suppress(StoreUnavailable):
            reclaimed = await self._stream_log.take_lease_of_dead_owner(key)
            if not reclaimed and await self._stream_log.owner(key) is None:
                await self._clock.sleep(ORPHAN_CONFIRMATION_SECONDS)
                reclaimed = await self._stream_log.is_free(key)
            if reclaimed:
                await self._ledger.settle_orphan(key)


def _parts(keys: Sequence[UUID]) -> Iterator[Sequence[UUID]]:
    return (keys[first : first + _AT_ONCE] for first in range(0, len(keys), _AT_ONCE))
