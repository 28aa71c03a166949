"""The ledger in PostgreSQL: what is held, what was used, and what it cost.

Admissions and settlements are batched, and each process has at most one batch of each in flight. The database decides a batch
in one statement that is one transaction. The process renews a call until it is settled or released. A call that is no longer
renewed is swept at its estimate. If its real figures come later, they replace the estimate.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Self
from uuid import UUID, uuid4

from sqlalchemy import Row, text

from app.costs.budgets import BudgetExceeded
from app.costs.holds import AdmissionRequest, Admitted, Estimate, IdempotencyKey, Joined, Payer, Settlement, StoredCall
from app.costs.ledger_batches import (
    OTHER_INPUT,
    AdmissionBatches,
    HoldTerms,
    OpenCall,
    Refusal,
    SettlementBatches,
    Verdict,
    repeatable,
)
from app.costs.ledger_rows import Release, TopUp
from app.costs.prices import PriceBook
from app.costs.statements import Statements
from app.db.sessions import Sessions
from app.domain.attempts import Attempt, AttemptOutcome
from app.domain.errors import Refused, StoreUnavailable
from app.domain.usage import Operation, TokenUsage
from app.runtime.batcher import Batcher
from app.runtime.clock import Clock
from app.settings import Settings

ADMIT_MAX_OUTAGE = timedelta(seconds=5)
SETTLE_MAX_OUTAGE = timedelta(seconds=30)
MAX_RELEASES = 2
"""A doubtful call is released this many times, with a pause between, because the first release can arrive before an admission
that a stalled server continues later."""
MIN_RETENTION = timedelta(hours=24)
"""An idempotency key is remembered at least this long, even if content is kept for a shorter time."""

_SWEEP = "select /* ledger.sweep */ ledger_sweep($1)"
_log = logging.getLogger(__name__)


class PostgresLedger:
    """A Ledger. Inside `async with` it renews its own calls and sweeps those of dead processes. At the end it settles what is
    under way."""

    def __init__(self, sessions: Sessions, clock: Clock, settings: Settings, prices: PriceBook) -> None:
        self._sessions = sessions
        self._clock = clock
        self._owner = uuid4()
        self._lease = settings.budgets.hold_ttl
        self._content_ttl = settings.content.ttl
        self._open: dict[UUID, OpenCall] = {}
        self._releasing: set[asyncio.Task[None]] = set()
        self._doubtful: dict[UUID, int] = {}
        self._maintaining: asyncio.Task[None] | None = None
        self._metrics_tenants = settings.telemetry.metrics_tenants
        self.refused_by_budgets = Counter(dict.fromkeys(("", *self._metrics_tenants), 0))
        self._admitting = Statements(sessions.engines, clock, ADMIT_MAX_OUTAGE)
        self._settling = Statements(sessions.engines, clock, SETTLE_MAX_OUTAGE)
        terms = HoldTerms(self._owner, self._lease, max(self._content_ttl, MIN_RETENTION))
        admissions = AdmissionBatches(self._admitting, clock, terms, settings.budgets, opened=self._open, doubtful=self._doubtful)
        self._admissions: Batcher[AdmissionRequest | TopUp, Verdict] = Batcher(
            admissions.admit, unwanted=self._release_unclaimed, key=repeatable
        )
        settlements = SettlementBatches(self._settling, terms, prices, opened=self._open)
        self._settlements: Batcher[Settlement | Release, int | None] = Batcher(settlements.settle)

    async def __aenter__(self) -> Self:
        self._maintaining = asyncio.create_task(self.run_maintenance())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._maintaining is not None:
            self._maintaining.cancel()
        await self.close()

    async def admit(self, request: AdmissionRequest) -> Admitted | Joined:
        verdict = await self._ask(request)
        if isinstance(verdict, Refusal):
            tenant = request.payer.tenant if request.payer.tenant in self._metrics_tenants else ""
            self.refused_by_budgets[tenant] += isinstance(verdict.reason, BudgetExceeded)
            raise Refused(verdict.reason)
        return verdict

    async def top_up(self, call: UUID, payer: Payer, estimate: Estimate) -> int | None:
        opened = self._open.get(call)
        if opened is None:
            return None
        verdict = await self._ask(TopUp(call, payer, estimate, opened.at))
        return verdict.output_cap_tokens if isinstance(verdict, Admitted) else None

    async def settle(self, settlement: Settlement) -> None:
        await self._finish(settlement)

    async def settle_all(self, settlements: Sequence[Settlement]) -> int:
        results = await asyncio.gather(*map(self._settlements.submit, settlements), return_exceptions=True)
        return sum(isinstance(result, Exception) for result in results)

    async def release(self, call: UUID) -> None:
        """Releases the call, or tries again later if PostgreSQL does not answer."""
        try:
            await self._finish(Release(call))
        except StoreUnavailable:
            self._doubtful.setdefault(call, 0)
            raise

    async def earlier(self, payer: Payer, operation: Operation, repeated: IdempotencyKey) -> UUID | None:
        values = {"tenant": payer.tenant, "operation": operation.value, "idempotency_key": repeated.key}
        async with self._sessions.read(primary=True) as session:
            row = (await session.execute(_EARLIER, values)).one_or_none()
        if row is not None and row.request_hash != repeated.request_hash:
            raise Refused(OTHER_INPUT)
        return None if row is None else row.key

    async def stored(self, call: UUID) -> StoredCall | None:
        async with self._sessions.read(primary=True) as session:
            row = (await session.execute(_STORED, {"key": call, "ttl": self._content_ttl})).one_or_none()
            if row is None:
                return None
            charged: Sequence[Row[Any]] = ()
            if row.document is None and row.finished_at is not None:
                values = {"tenant": row.tenant, "at": row.admitted_at, "call": call}
                charged = (await session.execute(_CHARGED, values)).all()
        return StoredCall(
            call,
            row.tenant,
            Operation(row.operation),
            row.status,
            row.document,
            row.admitted_at,
            row.finished_at,
            row.agent,
            tuple(_attempt(one, row.admitted_at) for one in charged),
            row.expired,
        )

    async def renew(self, after: timedelta | None = None) -> int:
        """Renews the calls of this process whose last renewal was at least `after` ago, by default a third of the lease.

        Returns how many.
        """
        now = self._clock.monotonic()
        age = (self._lease / 3 if after is None else after).total_seconds()
        due = [call for call, opened in self._open.items() if now - opened.renewed >= age]
        renewed: Sequence[UUID] = ()
        if due:
            async with self._sessions.write() as session:
                values = {"lease": self._lease, "owner": self._owner, "calls": due}
                renewed = (await session.execute(_RENEW, values)).scalars().all()
            for call in renewed:
                if call in self._open:
                    self._open[call].renewed = now
        return len(renewed)

    async def release_doubtful(self) -> None:
        """Releases the calls that were refused because PostgreSQL did not answer. It may have admitted them."""
        calls = list(self._doubtful)
        await asyncio.gather(*map(self.release, calls))
        for call in calls:
            if call in self._doubtful:
                self._doubtful[call] += 1
                if self._doubtful[call] == MAX_RELEASES:
                    del self._doubtful[call]

    async def sweep(self, most: int = 100) -> int:
        """Settles the calls that are no longer renewed, at their estimates. Returns how many."""
        swept: int = (await self._settling.fetch(_SWEEP, most))[0][0]
        return swept

    async def settle_orphan(self, call: UUID) -> None:
        """Settles a call whose owner is known to be dead, at its estimate, without waiting for its lease to end."""
        async with self._sessions.write() as session:
            await session.execute(_SETTLE_ORPHAN, {"call": call, "owner": self._owner})
        await self.sweep()

    async def run_maintenance(self) -> None:
        """Renews and sweeps until it is cancelled."""
        pause = self._lease.total_seconds() / 6
        while True:
            try:
                await self.release_doubtful()
                await self.renew()
                while await self.sweep():
                    pass
            except StoreUnavailable:
                _log.warning("no hold was renewed: PostgreSQL does not answer")
            except Exception:  # noqa: BLE001 if this loop ended, every hold of the process would expire
                _log.exception("no hold was renewed")
            await self._clock.sleep(pause)

    async def close(self) -> None:
        """Waits for what is under way, then returns the connections."""
        await self._admissions.settled()
        if self._releasing:
            await asyncio.wait(self._releasing)
        await self._settlements.settled()
        await self._admitting.close()
        await self._settling.close()

    async def drop_documents(self, tenant: str, operation: Operation, idempotency_keys: Sequence[str]) -> None:
        """Drops what is stored of finished calls, before its time is over. A repeat of their keys gets nothing then."""
        values = {"tenant": tenant, "operation": operation.value, "keys": list(idempotency_keys)}
        async with self._sessions.write() as session:
            await session.execute(_DROP_DOCUMENTS, values)

    async def _ask(self, asked: AdmissionRequest | TopUp) -> Verdict:
        answer = self._admissions.submit(asked)
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                self._release_unclaimed(asked, answer.result())
            raise

    def _release_unclaimed(self, asked: AdmissionRequest | TopUp, verdict: Verdict) -> None:
        """Releases the hold of a caller that has left."""
        if isinstance(asked, TopUp) or not isinstance(verdict, Admitted):
            return
        task = asyncio.create_task(self._release_in_time(verdict.call))
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)

    async def _release_in_time(self, call: UUID) -> None:
        with suppress(StoreUnavailable):  # then it is doubtful and is released later
            await self.release(call)

    async def _finish(self, item: Settlement | Release) -> None:
        """Writes the item even if the caller leaves while it waits."""
        try:
            position = await self._settlements.submit(item)
        finally:
            self._open.pop(item.call, None)
        if self._sessions.own_writes is not None:
            await self._sessions.own_writes.note(position)


_STORED = text(
    "select /* ledger.stored */"
    " tenant, agent, operation, status, admitted_at, finished_at, case when not expired then document end as document,"
    " expired and swept_at is null as expired"
    " from completions, coalesce(finished_at <= now() - cast(:ttl as interval), false) expired"
    " where key = :key and (expires_at > now() or status = 'RUNNING')"
)
_EARLIER = text(
    "select /* ledger.earlier */ key, request_hash from completions where tenant = :tenant and operation = :operation"
    " and idempotency_key = :idempotency_key and (expires_at > now() or status = 'RUNNING')"
)
_CHARGED = text(
    "select /* ledger.charged */"
    " key, provider, model, outcome, latency_ms, provider_request_id, uncached_input_tokens, cached_input_tokens,"
    " cache_write_5m_tokens, cache_write_1h_tokens, visible_output_tokens, reasoning_tokens, confirmed, cost_usd"
    " from usage_records where tenant = :tenant and at = :at and completion = :call order by key"
)
_DROP_DOCUMENTS = text(
    "update /* ledger.drop_documents */"
    " completions set document = null where tenant = :tenant and operation = :operation and idempotency_key = any(:keys)"
    " and document is not null and status <> 'RUNNING'"
)
_SETTLE_ORPHAN = text(
    "update /* ledger.settle_orphan */ completions set lease_until = now() - interval '1 second'"
    " where key = :call and owner <> :owner and status = 'RUNNING'"
)
_RENEW = text(
    "update /* ledger.renew */"
    " completions set lease_until = now() + :lease where key in (select key from completions where key = any(:calls)"
    " and owner = :owner and status = 'RUNNING' order by key for update skip locked) returning key"
)
"""Locks in the same order as every other statement. A call that another transaction has locked is renewed next time."""


def _attempt(row: Row[Any], admitted_at: datetime) -> Attempt:
    return Attempt(
        row.key,
        row.provider,
        row.model,
        AttemptOutcome(row.outcome),
        admitted_at,
        row.latency_ms,
        provider_request_id=row.provider_request_id,
        usage=TokenUsage(
            row.uncached_input_tokens,
            row.cached_input_tokens,
            row.cache_write_5m_tokens,
            row.cache_write_1h_tokens,
            row.visible_output_tokens,
            row.reasoning_tokens,
            row.confirmed,
        ),
        cost_usd=row.cost_usd,
    )
