"""Calls as the gateway makes them, and what the database says about its own sums."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID, uuid4

from sqlalchemy import text

from app.costs.holds import AdmissionRequest, Estimate, IdempotencyKey, Payer, Settlement
from app.db.sessions import Sessions
from app.domain.attempts import Attempt, AttemptOutcome
from app.domain.usage import Label, Operation, TokenUsage

PROVIDER, MODEL = "openai", "gpt-4o"
STARTED_AT = datetime(2026, 11, 22, tzinfo=UTC)


def payer(tenant: str = "acme", agent: str | None = None, **labels: str) -> Payer:
    return Payer(tenant, "key", agent, tuple(Label(key, value) for key, value in labels.items()))


def estimate(
    *,
    input_usd: str | None = "1",
    token_usd: str | None = "0.01",
    most: int = 100,
    least: int = 50,
    provider: str = PROVIDER,
    model: str = MODEL,
) -> Estimate:
    """By default at worst 2 USD, and 1.50 USD with the lowest cap."""
    return Estimate(
        provider,
        model,
        1000,
        most,
        least,
        None if input_usd is None else Decimal(input_usd),
        None if token_usd is None else Decimal(token_usd),
    )


def asked(
    who: Payer | None = None, worst: Estimate | None = None, key: IdempotencyKey | None = None, call: UUID | None = None
) -> AdmissionRequest:
    return AdmissionRequest(call or uuid4(), Operation.COMPLETION, who or payer(), worst or estimate(), key)


def attempt(cost: str | None = "2", *, provider: str = PROVIDER, model: str = MODEL, key: UUID | None = None) -> Attempt:
    return Attempt(
        key or uuid4(),
        provider,
        model,
        AttemptOutcome.SUCCEEDED,
        STARTED_AT,
        12.5,
        200,
        provider_request_id="req-1",
        usage=TokenUsage(uncached_input_tokens=1000, visible_output_tokens=100),
        cost_usd=None if cost is None else Decimal(cost),
    )


def settlement(
    request: AdmissionRequest,
    *attempts: Attempt,
    status: str = "FINISHED",
    document: bytes | None = b"d",
    priced_at: datetime = STARTED_AT,
) -> Settlement:
    return Settlement(request.call, request.operation, request.payer, attempts or (attempt(),), status, document, priced_at)


@dataclass(frozen=True)
class Sums:
    """Everything that must agree: a budget's running sums, its hold rows, the records and the roll-ups."""

    spent: Decimal
    held: Decimal
    hold_rows: Decimal
    records: Decimal
    rollups: Decimal


async def sums(sessions: Sessions, budget: UUID) -> Sums:
    async with sessions.read(primary=True) as session:
        row = (await session.execute(_SUMS, {"budget": budget})).one()
    return Sums(row.spent, row.held, row.hold_rows, row.records, row.rollups)


_SUMS = text("""
    select n.spent_usd as spent, n.held_usd as held,
        coalesce((select sum(h.usd) from completions c cross join lateral unnest(c.hold_budgets, c.hold_starts, c.hold_usd)
            h (budget, starts, usd) where h.budget = n.key and h.starts = n.period_start), 0) as hold_rows,
        coalesce((select sum(u.cost_usd) from usage_records u where u.at >= n.period_start
            and u.at < coalesce(n.period_end, 'infinity')
            and (n.tenant = '' or n.tenant = u.tenant) and (n.agent = '' or n.agent = u.agent)
            and (n.provider = '' or n.provider = u.provider) and (n.model = '' or n.model = u.model)
            and (n.label_key = '' or u.labels ->> n.label_key = n.label_value)), 0) as records,
        coalesce((select sum(r.cost_usd) from usage_rollups r where r.grain = 1440 and r.bucket >= n.period_start
            and r.bucket < coalesce(n.period_end, 'infinity') and (n.tenant = '' or n.tenant = r.tenant)), 0) as rollups
    from budget_now n where n.key = :budget
""")
