"""What was spent, by whom and on what.

Figures are exact up to `as_of`, because the transaction that settles a call also writes the roll-ups. Reports with labels may be
kept for a minute. Every read names its
tenants. None means all of them and is for administrators.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, select, tuple_

from app.cache.decorators import cached_with_invalidation
from app.cache.reads import ReadCache, ReadKey, read_key
from app.costs.fresh_reads import BUDGET_ALERT
from app.costs.label_rollups import read_segments
from app.costs.prices import PriceUsed
from app.costs.queries import CostFilter, CostQuery
from app.costs.report_statements import (
    MEASURES,
    PLACE,
    RANK,
    costs_statement,
    dimension_names,
    record_conditions,
)
from app.db.sessions import Sessions
from app.db.statement_times import named
from app.db.tables.usage import usage_records
from app.domain.attempts import AttemptOutcome
from app.domain.ids import format_id
from app.domain.paging import (
    Edge,
    Page,
    PageInfo,
    PageRequest,
    build_page,
    decode_cursor,
    decode_time_cursor,
    encode_cursor,
    encode_time_cursor,
    not_a_cursor,
)
from app.domain.usage import CacheTier, Label, Operation, TokenUsage

MAX_AGE, EARLY = timedelta(seconds=60), timedelta(seconds=45)
"""How old a kept report may be, and the age from which it is read again in the background when it is asked for."""
_ROWS, _RECORDS = "costs", "usage"
_WITH_PUBLIC_ID = frozenset({Operation.COMPLETION, Operation.ANSWER})
_MAX_PLACES = 64
_AT_ONCE = 4
"""Building a statement takes milliseconds. After this many the event loop gets a turn."""


@dataclass(frozen=True, slots=True)
class CostMeasures:
    """`unconfirmed_usd` is the part of `cost_usd` that is estimated."""

    cost_usd: Decimal
    saved_usd: Decimal
    requests: int
    failures: int
    cache_hits: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    reasoning_tokens: int
    unpriced_requests: int
    unconfirmed_usd: Decimal


@dataclass(frozen=True, slots=True)
class CostTotals(CostMeasures):
    """The sums of all rows."""


@dataclass(frozen=True, slots=True)
class CostRow(CostMeasures):
    """A dimension that was not requested is None. Agent and label are also None if the calls did not name them."""

    provider: str | None = None
    model: str | None = None
    tenant: str | None = None
    agent: str | None = None
    operation: Operation | None = None
    label: str | None = None
    period_start: datetime | None = None


@dataclass(frozen=True, slots=True)
class CostReport:
    as_of: datetime
    totals: CostTotals
    rows: Page[CostRow]


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """One attempt that reached a provider or the cache. `at` is the call's admission, in database time."""

    key: UUID
    at: datetime
    operation: Operation
    tenant: str
    provider: str
    model: str
    outcome: AttemptOutcome
    usage: TokenUsage
    latency_ms: float
    completion: UUID | None = None
    agent: str | None = None
    labels: tuple[Label, ...] = ()
    key_name: str | None = None
    provider_request_id: str | None = None
    price: PriceUsed | None = None
    cost_usd: Decimal | None = None
    cache_tier: CacheTier | None = None

    @property
    def id(self) -> str:
        return format_id("use", self.key)

    @property
    def completion_id(self) -> str | None:
        """None for embeddings, because the ids of their calls are not public."""
        if self.completion is None or self.operation not in _WITH_PUBLIC_ID:
            return None
        return format_id("cmp", self.completion)

    @property
    def confirmed(self) -> bool:
        return self.usage.confirmed


def _label_report_key(query: CostQuery) -> ReadKey:
    return read_key("costs", query.filter.tenants, query)


class CostReports:
    def __init__(self, sessions: Sessions, kept_reads: ReadCache | None = None) -> None:
        """With `kept_reads`, a report with labels can be up to MAX_AGE old; `as_of` says so."""
        self._sessions = sessions
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self.kept_reads = kept_reads

    async def costs(self, query: CostQuery) -> CostReport:
        """Raises Refused(InvalidInput) for a cursor of another list."""
        return await (self._label_report(query) if query.label_keys else self._report(query))

    @cached_with_invalidation(ttl=MAX_AGE, key=_label_report_key, tags=("costs",), early=EARLY, events=frozenset({BUDGET_ALERT}))
    async def _label_report(self, query: CostQuery) -> CostReport:
        return await self._report(query)

    async def _report(self, query: CostQuery) -> CostReport:
        async with self._at_once, self._sessions.read() as session:
            statement = costs_statement(query, await read_segments(session, query), _after(query.page))
            rows = (await session.execute(statement)).mappings().all()
            as_of = session.as_of or rows[0]["as_of"]
        names = dimension_names(query)
        found = [(_row(row, names), _place(row)) for row in rows if row[PLACE] is not None]
        return CostReport(as_of, CostTotals(**_measures(rows[0], "total_")), _page(query.page, found))

    async def records(self, where: CostFilter, request: PageRequest) -> Page[UsageRecord]:
        """Returns the newest records first."""
        columns = usage_records.c
        statement = select(usage_records).where(*record_conditions(where)).order_by(columns.at.desc(), columns.key.desc())
        if request.after is not None:
            statement = statement.where(tuple_(columns.at, columns.key) < tuple_(*decode_time_cursor(_RECORDS, request.after)))
        async with self._sessions.read() as session:
            rows = (await session.execute(named("records.page", statement.limit(request.first + 1)))).mappings().all()
        return build_page(
            request,
            [_record(row) for row in rows],
            lambda record: encode_time_cursor(_RECORDS, record.at, record.key),
        )

    async def record(self, key: UUID, tenant: str | None) -> UsageRecord | None:
        statement = select(usage_records).where(usage_records.c.key == key)
        if tenant is not None:
            statement = statement.where(usage_records.c.tenant == tenant)
        async with self._sessions.read() as session:
            row = (await session.execute(named("records.by_key", statement))).mappings().first()
        return None if row is None else _record(row)


def _after(request: PageRequest) -> tuple[Decimal, str] | None:
    if request.after is None:
        return None
    rank, place = decode_cursor(_ROWS, request.after, 2)
    try:
        found = Decimal(rank)
    except InvalidOperation:
        found = Decimal("NaN")
    if not found.is_finite() or abs(found.adjusted()) > _MAX_PLACES:
        raise not_a_cursor()
    return found, place


def _place(row: RowMapping) -> str:
    return encode_cursor(_ROWS, str(row[RANK]), row[PLACE])


def _page(request: PageRequest, found: list[tuple[CostRow, str]]) -> Page[CostRow]:
    edges = tuple(Edge(row, cursor) for row, cursor in found[: request.first])
    return Page(
        edges,
        PageInfo(
            has_next_page=len(found) > request.first,
            has_previous_page=request.after is not None,
            start_cursor=edges[0].cursor if edges else None,
            end_cursor=edges[-1].cursor if edges else None,
        ),
    )


def _row(row: RowMapping, names: tuple[str, ...]) -> CostRow:
    dimensions = {name: row[name] for name in names}
    if "operation" in dimensions:
        dimensions["operation"] = Operation(dimensions["operation"])
    return CostRow(**_measures(row, ""), **dimensions)


def _measures(row: RowMapping, prefix: str) -> dict[str, Any]:
    """Any: the fields of CostMeasures by name. The database returns sums of whole numbers as decimals."""
    return {name: row[prefix + name] if name.endswith("_usd") else int(row[prefix + name]) for name in MEASURES}


def _record(row: RowMapping) -> UsageRecord:
    return UsageRecord(
        key=row["key"],
        at=row["at"],
        operation=Operation(row["operation"]),
        tenant=row["tenant"],
        provider=row["provider"],
        model=row["model"],
        outcome=AttemptOutcome(row["outcome"]),
        usage=TokenUsage(
            row["uncached_input_tokens"],
            row["cached_input_tokens"],
            row["cache_write_5m_tokens"],
            row["cache_write_1h_tokens"],
            row["visible_output_tokens"],
            row["reasoning_tokens"],
            row["confirmed"],
        ),
        latency_ms=row["latency_ms"],
        completion=row["completion"],
        agent=row["agent"],
        labels=tuple(Label(key, value) for key, value in sorted(row["labels"].items())),
        key_name=row["key_name"],
        provider_request_id=row["provider_request_id"],
        price=_price(row),
        cost_usd=row["cost_usd"],
        cache_tier=None if row["cache_tier"] is None else CacheTier(row["cache_tier"]),
    )


def _price(row: RowMapping) -> PriceUsed | None:
    if row["price_source"] is None:
        return None
    return PriceUsed(
        row["price_input_usd"],
        row["price_output_usd"],
        row["price_cache_read_usd"],
        row["price_cache_write_usd"],
        row["price_source"],
    )
