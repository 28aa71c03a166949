"""The calls that run in this process, and what happens to a call whose owner died.

If other processes may watch, join or cancel a call, it has a lease in Redis. The lease names the owner, and the owner renews
it. An owner is dead if its lease is gone or if it was a process of this machine that has ended. The first waiter that finds a
dead owner settles the call at its estimate, and the call ends as failed. If Redis does not answer, every owner counts as alive.
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
"""After a restart of Redis an owner needs a moment to renew its leases."""
_AT_ONCE = 100
"""Leases that are renewed in one exchange with Redis. The number is small, so no exchange takes long."""
_log = logging.getLogger(__name__)


class Leases:
    def __init__(self, clock: Clock, log: StreamLog, ledger: PostgresLedger) -> None:
        self._clock = clock
        self._stream_log = log
        self._ledger = ledger
        self._writes: Batcher[LogWrite, None] = Batcher(log.write)
        self._held: dict[UUID, Callable[[], object]] = {}

    def write(self, write: LogWrite) -> asyncio.Future[None]:
        """Writes to lease and log in one batch with other writes of the same moment. The future fails with StoreUnavailable."""
        return self._writes.submit(write)

    def hold(self, key: UUID, cancel: Callable[[], object]) -> None:
        """From now on the call runs here. `cancel` is called when the call is to be stopped, perhaps several times."""
        self._held[key] = cancel

    def drop(self, key: UUID) -> None:
        """The call has ended."""
        self._held.pop(key, None)

    async def cancel(self, key: UUID) -> None:
        """Asks the owner to stop the call: at once if the owner is this process, else with its next renewal. Raises
        StoreUnavailable."""
        held = self._held.get(key)
        if held is not None:
            held()
        else:
            await self._stream_log.cancel(key)

    async def run_maintenance(self) -> None:
        """Renews the leases of the calls that run here, and stops the calls whose cancellation was requested. Runs until it is
        cancelled."""
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
        """Reclaims the call like `reclaim_orphan`, but only if its owner is a process of this machine that has ended. Only one
        process takes the lease. The call may run again at once, and a second process must not end that new run."""
        with suppress(StoreUnavailable):
            if await self._stream_log.take_lease_of_dead_owner(key):
                await self._ledger.settle_orphan(key)

    async def reclaim_orphan(self, key: UUID) -> None:
        """Settles a running call if its owner is known to be dead, or if two checks find no owner. If the owner is alive, or if
        Redis does not answer, the call goes on."""
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
