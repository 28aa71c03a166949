"""The ledger in PostgreSQL: what is held, what was used, and what it cost.

Admissions and settlements go in batches, one of each in flight per process; the database decides a batch in one statement that is
one transaction. A call that this process has open is renewed until it is settled or released; one that is no longer renewed is
swept at its estimate, and its real figures replace that estimate when they come after all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Self, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import msgspec
from sqlalchemy import Row, text

from app.costs.budgets import Budget, BudgetExceeded, budget_from_row, exceeded
from app.costs.holds import AdmissionRequest, Admitted, Estimate, Joined, Payer, Settlement, StoredCall
from app.costs.ledger_rows import Release, TopUp, asked_rows, settled_rows
from app.costs.prices import PriceBook
from app.costs.statements import Statements
from app.db.sessions import Sessions
from app.domain.attempts import Attempt, AttemptOutcome
from app.domain.errors import Refused, StoreUnavailable
from app.domain.problems import Conflict, InvalidInput, ProblemCode
from app.domain.usage import Operation, TokenUsage
from app.runtime.batcher import Batcher
from app.runtime.clock import Clock
from app.settings import BudgetDefault, Settings

ADMIT_MAX_OUTAGE = timedelta(seconds=5)
SETTLE_MAX_OUTAGE = timedelta(seconds=30)
MAX_RELEASES = 2
"""So often, a while apart: the first release can overtake an admission that a server which stood still goes on with."""
MIN_RETENTION = timedelta(hours=24)
"""How long an idempotency key is remembered if content is kept for a shorter time."""

_ADMIT = "select * from ledger_admit($1, $2, $3, $4::text::jsonb, $5, $6, $7)"
_SETTLE = "select ledger_settle($1, $2, $3, $4, $5, $6, $7)"
_SWEEP = "select ledger_sweep($1)"
_BUDGETS = "select * from budget_now where key = any($1)"
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Open:
    """A call of this process: admitted at `at`, renewed last at `renewed` of the Clock's monotonic seconds."""

    at: datetime
    renewed: float


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: object


_Verdict: TypeAlias = Admitted | Joined | _Refusal


class PostgresLedger:
    """A Ledger: while it is entered it renews its own calls and sweeps those of dead processes; when it is left, what was under
    way is settled."""

    def __init__(self, sessions: Sessions, clock: Clock, settings: Settings, prices: PriceBook) -> None:
        self._sessions = sessions
        self._clock = clock
        self._prices = prices
        self._owner = uuid4()
        self._lease = settings.budgets.hold_ttl
        self._content_ttl = settings.content.ttl
        self._retention = max(self._content_ttl, MIN_RETENTION)
        self._defaults = settings.budgets
        self._materialised: set[tuple[str, str]] = set()
        self._open: dict[UUID, _Open] = {}
        self._releasing: set[asyncio.Task[None]] = set()
        self._doubtful: dict[UUID, int] = {}
        self._maintaining: asyncio.Task[None] | None = None
        self._admitting = Statements(sessions.engines, clock, ADMIT_MAX_OUTAGE)
        self._settling = Statements(sessions.engines, clock, SETTLE_MAX_OUTAGE)
        self._admissions: Batcher[AdmissionRequest | TopUp, _Verdict] = Batcher(
            self._admit_batch, unwanted=self._release_unclaimed, key=_repeatable
        )
        self._settlements: Batcher[Settlement | Release, None] = Batcher(self._settle_batch)

    async def __aenter__(self) -> Self:
        self._maintaining = asyncio.create_task(self.run_maintenance())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._maintaining is not None:
            self._maintaining.cancel()
        await self.close()

    async def admit(self, request: AdmissionRequest) -> Admitted | Joined:
        verdict = await self._ask(request)
        if isinstance(verdict, _Refusal):
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

    async def release(self, call: UUID) -> None:
        """Tried again later if PostgreSQL does not answer."""
        try:
            await self._finish(Release(call))
        except StoreUnavailable:
            self._doubtful.setdefault(call, 0)
            raise

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

    async def renew(self) -> int:
        """Renews the calls that this process still has open and whose lease is half over; returns how many."""
        now = self._clock.monotonic()
        due = [call for call, opened in self._open.items() if now - opened.renewed >= self._lease.total_seconds() / 3]
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
        """Releases the calls that were refused because PostgreSQL did not answer: it may have admitted them all the same."""
        calls = list(self._doubtful)
        await asyncio.gather(*map(self.release, calls))
        for call in calls:
            if call in self._doubtful:
                self._doubtful[call] += 1
                if self._doubtful[call] == MAX_RELEASES:
                    del self._doubtful[call]

    async def sweep(self, most: int = 100) -> int:
        """Settles at their estimates the calls whose owners stopped renewing them; returns how many."""
        swept: int = (await self._settling.fetch(_SWEEP, most))[0][0]
        return swept

    async def settle_orphan(self, call: UUID) -> None:
        """Settles at its estimate a call whose owner is known to be dead, without waiting for its lease to end."""
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
        """Waits for what is under way, then gives the connections back."""
        await self._admissions.settled()
        if self._releasing:
            await asyncio.wait(self._releasing)
        await self._settlements.settled()
        await self._admitting.close()
        await self._settling.close()

    async def _ask(self, asked: AdmissionRequest | TopUp) -> _Verdict:
        answer = self._admissions.submit(asked)
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                self._release_unclaimed(asked, answer.result())
            raise

    def _release_unclaimed(self, asked: AdmissionRequest | TopUp, verdict: _Verdict) -> None:
        """The caller has left: what was admitted for it must not stay held."""
        if isinstance(asked, TopUp) or not isinstance(verdict, Admitted):
            return
        task = asyncio.create_task(self._release_in_time(verdict.call))
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)

    async def _release_in_time(self, call: UUID) -> None:
        with suppress(StoreUnavailable):  # it is doubtful then, and released later
            await self.release(call)

    async def _finish(self, item: Settlement | Release) -> None:
        """A caller that leaves while it waits does not cancel the item: it is written all the same."""
        try:
            await self._settlements.submit(item)
        finally:
            self._open.pop(item.call, None)

    async def _admit_batch(self, batch: Sequence[AdmissionRequest | TopUp]) -> Sequence[_Verdict]:
        defaults = self._missing_defaults(batch)
        asked = asked_rows(batch)
        budgets = {}
        try:
            rows = await self._admitting.fetch(
                _ADMIT,
                self._owner,
                self._lease,
                self._retention,
                msgspec.json.encode(list(defaults.values())).decode(),
                asked.payers,
                asked.targets,
                asked.requests,
            )
            refusing = {row["budget"] for row in rows if row["budget"] is not None}
            if refusing:
                budgets = {row["key"]: budget_from_row(row) for row in await self._admitting.fetch(_BUDGETS, list(refusing))}
        except StoreUnavailable:
            self._doubtful.update((one.call, 0) for one in batch if isinstance(one, AdmissionRequest))
            raise
        self._materialised.update(defaults)
        now = self._clock.monotonic()
        return [self._verdict(one, row, budgets, now) for one, row in zip(batch, rows, strict=True)]

    def _verdict(
        self, asked: AdmissionRequest | TopUp, row: asyncpg.Record, budgets: Mapping[UUID, Budget], now: float
    ) -> _Verdict:
        _, word, call, cap, capped, at, budget, needed, remaining = row
        if word == "admitted":
            if isinstance(asked, AdmissionRequest):
                self._doubtful.pop(call, None)
                self._open[call] = _Open(at, now)
            return Admitted(call, cap, capped, at)
        if word == "joined":
            return Joined(call)
        return _Refusal(_reason(word, asked.estimate, budgets.get(budget), needed, remaining))

    async def _settle_batch(self, batch: Sequence[Settlement | Release]) -> Sequence[None]:
        opened = self._open
        found = [(item, None if (call := opened.get(item.call)) is None else call.at) for item in batch]
        rows = settled_rows(found, self._prices)
        await self._settling.fetch(
            _SETTLE, self._owner, self._retention, rows.payers, rows.prices, rows.calls, rows.attempts, rows.documents
        )
        return [None] * len(batch)

    def _missing_defaults(self, batch: Sequence[AdmissionRequest | TopUp]) -> dict[tuple[str, str], dict[str, object]]:
        """The configured budgets of tenants and agents that this process sees for the first time."""
        missing: dict[tuple[str, str], dict[str, object]] = {}
        for asked in batch:
            tenant, agent = asked.payer.tenant, asked.payer.agent
            if self._defaults.per_tenant is not None and (tenant, "") not in self._materialised:
                missing[tenant, ""] = _default(self._defaults.per_tenant, tenant, "")
            if agent and self._defaults.per_agent is not None and (tenant, agent) not in self._materialised:
                missing[tenant, agent] = _default(self._defaults.per_agent, tenant, agent)
        return missing


_STORED = text(
    "select tenant, agent, operation, status, admitted_at, finished_at, case when not expired then document end as document,"
    " expired and swept_at is null as expired"
    " from completions, coalesce(finished_at <= now() - cast(:ttl as interval), false) expired"
    " where key = :key and (expires_at > now() or status = 'RUNNING')"
)
_CHARGED = text(
    "select key, provider, model, outcome, latency_ms, provider_request_id, uncached_input_tokens, cached_input_tokens,"
    " cache_write_5m_tokens, cache_write_1h_tokens, visible_output_tokens, reasoning_tokens, confirmed, cost_usd"
    " from usage_records where tenant = :tenant and at = :at and completion = :call order by key"
)
_SETTLE_ORPHAN = text(
    "update completions set lease_until = now() - interval '1 second'"
    " where key = :call and owner <> :owner and status = 'RUNNING'"
)
_RENEW = text(
    "update completions set lease_until = now() + :lease where key in (select key from completions where key = any(:calls)"
    " and owner = :owner and status = 'RUNNING' order by key for update skip locked) returning key"
)
"""Locks in the order that every statement keeps. A call that another transaction has locked is renewed next time."""


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


def _reason(
    word: str, estimate: Estimate, budget: Budget | None, needed: Decimal | None, remaining: Decimal | None
) -> BudgetExceeded | Conflict | InvalidInput:
    if word == "mismatch":
        return Conflict("The idempotency key was used before, with another input.", ProblemCode.IDEMPOTENCY_MISMATCH)
    if budget is None or needed is None or remaining is None:
        return InvalidInput(
            f"{estimate.provider}/{estimate.model} has no price, so no budget can be enforced. Set a price in the configuration.",
            ("model",),
            ProblemCode.UNPRICED_MODEL,
        )
    return exceeded(budget, needed, remaining)


def _repeatable(asked: AdmissionRequest | TopUp) -> tuple[str, str] | None:
    """Equal if one is a repeat of the other. A repeat joins the first call, so the two are not admitted in one batch."""
    if isinstance(asked, TopUp) or asked.idempotency is None:
        return None
    return asked.payer.tenant, asked.idempotency.key


def _default(default: BudgetDefault, tenant: str, agent: str) -> dict[str, object]:
    return {
        "name": f"Default of {agent or tenant}",
        "tenant": tenant,
        "agent": agent,
        "limit_usd": default.limit_usd,
        "period": default.period,
        "time_zone": default.time_zone,
        "thresholds": sorted(set(default.thresholds)),
        "enforcement": default.enforcement,
    }
