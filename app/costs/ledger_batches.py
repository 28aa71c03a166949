"""Batches of the ledger: the database decides each in one statement, which is one transaction.

Admitted calls are recorded before their callers learn of them, even if a caller has left, so no hold is forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TypeAlias
from uuid import UUID

import asyncpg
import msgspec

from app.costs.budgets import Budget, BudgetExceeded, budget_from_row, exceeded
from app.costs.holds import AdmissionRequest, Admitted, Estimate, Joined, Settlement
from app.costs.ledger_rows import Release, TopUp, asked_rows, settled_rows
from app.costs.prices import PriceBook
from app.costs.statements import Statements
from app.domain.errors import StoreUnavailable
from app.domain.problems import Conflict, InvalidInput, ProblemCode
from app.runtime.clock import Clock
from app.settings import BudgetDefault, BudgetSettings

OTHER_INPUT = Conflict("The idempotency key was used before, with another input.", ProblemCode.IDEMPOTENCY_MISMATCH)
_ADMIT = "select /* ledger.admit */ * from ledger_admit($1, $2, $3, $4::text::jsonb, $5, $6, $7)"
_SETTLE = "select /* ledger.settle */ ledger_settle($1, $2, $3, $4, $5, $6, $7)"
_BUDGETS = "select /* ledger.budgets */ * from budget_now where key = any($1)"


@dataclass(slots=True)
class OpenCall:
    """A call of this process. It was admitted at `at`. `renewed` is its last renewal, in the Clock's monotonic seconds."""

    at: datetime
    renewed: float


@dataclass(frozen=True, slots=True)
class HoldTerms:
    """`owner` is this process, which renews a hold within `lease`. `retention` is how long an idempotency key is remembered."""

    owner: UUID
    lease: timedelta
    retention: timedelta


@dataclass(frozen=True, slots=True)
class Refusal:
    reason: object


Verdict: TypeAlias = Admitted | Joined | Refusal


class AdmissionBatches:
    """`opened` gets the calls that were admitted. `doubtful` gets those that PostgreSQL may have admitted although it did not
    answer."""

    def __init__(
        self,
        statements: Statements,
        clock: Clock,
        terms: HoldTerms,
        defaults: BudgetSettings,
        *,
        opened: dict[UUID, OpenCall],
        doubtful: dict[UUID, int],
    ) -> None:
        self._statements = statements
        self._clock = clock
        self._terms = terms
        self._defaults = defaults
        self._materialised: set[tuple[str, str]] = set()
        self._opened = opened
        self._doubtful = doubtful

    async def admit(self, batch: Sequence[AdmissionRequest | TopUp]) -> Sequence[Verdict]:
        defaults = self._missing_defaults(batch)
        asked = asked_rows(batch)
        budgets = {}
        try:
            rows = await self._statements.fetch(
                _ADMIT,
                self._terms.owner,
                self._terms.lease,
                self._terms.retention,
                msgspec.json.encode(list(defaults.values())).decode(),
                asked.payers,
                asked.targets,
                asked.requests,
            )
            refusing = {row["budget"] for row in rows if row["budget"] is not None}
            if refusing:
                budgets = {row["key"]: budget_from_row(row) for row in await self._statements.fetch(_BUDGETS, list(refusing))}
        except StoreUnavailable:
            self._doubtful.update((one.call, 0) for one in batch if isinstance(one, AdmissionRequest))
            raise
        self._materialised.update(defaults)
        now = self._clock.monotonic()
        return [self._verdict(one, row, budgets, now) for one, row in zip(batch, rows, strict=True)]

    def _verdict(
        self, asked: AdmissionRequest | TopUp, row: asyncpg.Record, budgets: Mapping[UUID, Budget], now: float
    ) -> Verdict:
        _, word, call, cap, capped, at, budget, needed, remaining = row
        if word == "admitted":
            if isinstance(asked, AdmissionRequest):
                self._doubtful.pop(call, None)
                self._opened[call] = OpenCall(at, now)
            return Admitted(call, cap, capped, at)
        if word == "joined":
            return Joined(call)
        return Refusal(_reason(word, asked.estimate, budgets.get(budget), needed, remaining))

    def _missing_defaults(self, batch: Sequence[AdmissionRequest | TopUp]) -> dict[tuple[str, str], dict[str, object]]:
        """Returns the configured budgets of tenants and agents that this process sees for the first time."""
        missing: dict[tuple[str, str], dict[str, object]] = {}
        for asked in batch:
            tenant, agent = asked.payer.tenant, asked.payer.agent
            if self._defaults.per_tenant is not None and (tenant, "") not in self._materialised:
                missing[tenant, ""] = _default(self._defaults.per_tenant, tenant, "")
            if agent and self._defaults.per_agent is not None and (tenant, agent) not in self._materialised:
                missing[tenant, agent] = _default(self._defaults.per_agent, tenant, agent)
        return missing


class SettlementBatches:
    """`opened` says when the calls of this process were admitted."""

    def __init__(self, statements: Statements, terms: HoldTerms, prices: PriceBook, *, opened: Mapping[UUID, OpenCall]) -> None:
        self._statements = statements
        self._terms = terms
        self._prices = prices
        self._opened = opened

    async def settle(self, batch: Sequence[Settlement | Release]) -> Sequence[int | None]:
        """Returns for each the position of the database's log after the commit; None if it is not known."""
        opened = self._opened
        found = [(item, None if (call := opened.get(item.call)) is None else call.at) for item in batch]
        rows = settled_rows(found, self._prices)
        await self._statements.fetch(
            _SETTLE, self._terms.owner, self._terms.retention, rows.payers, rows.prices, rows.calls, rows.attempts, rows.documents
        )
        return [await self._statements.position()] * len(batch)


def _reason(
    word: str, estimate: Estimate, budget: Budget | None, needed: Decimal | None, remaining: Decimal | None
) -> BudgetExceeded | Conflict | InvalidInput:
    if word == "mismatch":
        return OTHER_INPUT
    if budget is None or needed is None or remaining is None:
        return InvalidInput(
            f"{estimate.provider}/{estimate.model} has no price, so no budget can be enforced. Set a price in the configuration.",
            ("model",),
            ProblemCode.UNPRICED_MODEL,
        )
    return exceeded(budget, needed, remaining)


def repeatable(asked: AdmissionRequest | TopUp) -> tuple[str, str] | None:
    """Returns the same value for repeats of one call. A repeat joins the first call, so both are not admitted in one batch."""
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
