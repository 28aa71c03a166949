"""The SQL of cost reports. It reads roll-ups if they are exact, and raw records for partial hours or days at the ends. A report
with one label reads the roll-ups of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypeAlias

from sqlalchemy import (
    ColumnElement,
    DateTime,
    FromClause,
    Numeric,
    Select,
    Table,
    Text,
    and_,
    case,
    cast,
    func,
    literal,
    null,
    or_,
    select,
    true,
    union_all,
)

from app.costs.periods import DAY, HOUR, QUARTER, Segment, cover, grains_within
from app.costs.queries import CostDimension, CostFilter, CostOrderField, CostQuery, Direction
from app.db.statement_times import named
from app.db.tables.usage import label_rollups, usage_records, usage_rollups

Element: TypeAlias = ColumnElement[Any]
"""Any, because the columns of a statement that is built at run time have no types of their own."""
Rows: TypeAlias = Select[*tuple[Any, ...]]

MEASURES = (
    "cost_usd",
    "saved_usd",
    "requests",
    "failures",
    "cache_hits",
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "reasoning_tokens",
    "unpriced_requests",
    "unconfirmed_usd",
)
RANK, PLACE = "rank", "place"
"""A row's position in its order: the figure it is sorted by, then its dimensions as one text."""

_NAMES = {
    CostDimension.PROVIDER: "provider",
    CostDimension.MODEL: "model",
    CostDimension.TENANT: "tenant",
    CostDimension.AGENT: "agent",
    CostDimension.OPERATION: "operation",
    CostDimension.LABEL: "label",
    CostDimension.HOUR: "period_start",
    CostDimension.DAY: "period_start",
    CostDimension.MONTH: "period_start",
}


_NO_LABEL: Element = cast(null(), Text)


def dimension_names(query: CostQuery) -> tuple[str, ...]:
    return tuple(_NAMES[dimension] for dimension in query.group_by)


def costs_statement(query: CostQuery, segments: Sequence[Segment], after: tuple[Decimal, str] | None) -> Rows:
    """Returns one row per row of the page, with the totals beside it (`total_…`), or one row with `place` null if the page is
    empty."""
    names = dimension_names(query)
    grouped = named("costs.report", _grouped(query, _parts(query, segments))).cte("grouped")
    totals = select(*(func.coalesce(func.sum(grouped.c[name]), 0).label(f"total_{name}") for name in MEASURES)).subquery()
    page = _page(query, names, grouped, after)
    return (
        select(func.now().label("as_of"), *totals.c, *page.c)
        .select_from(totals.outerjoin(page, true()))
        .order_by(*_order(page, query.order.direction))
    )


def groups_statement(query: CostQuery, segments: Sequence[Segment]) -> Rows:
    """Returns every row of the report, in the order of its dimensions."""
    grouped = _grouped(query, _parts(query, segments)).subquery()
    return select(*grouped.c).order_by(*(grouped.c[name].asc().nulls_first() for name in dimension_names(query)))


def _grouped(query: CostQuery, parts: Sequence[Rows]) -> Rows:
    """A group without requests is left out: its records were all replaced."""
    joined = union_all(*parts).subquery()
    dimensions = [joined.c[name] for name in dimension_names(query)]
    sums = [func.coalesce(func.sum(joined.c[name]), 0).label(name) for name in MEASURES]
    return select(*dimensions, *sums).group_by(*dimensions).having(func.sum(joined.c.requests) != 0)


def record_conditions(filter_: CostFilter, start: ColumnElement[bool] | None = None) -> list[ColumnElement[bool]]:
    """Returns the filter on raw records. `start`, if given, replaces its span."""
    records = usage_records.c
    span = and_(records.at >= filter_.start, records.at < filter_.end) if start is None else start
    return [
        span,
        *_conditions(filter_, usage_records),
        *(records.labels[label.key].astext == label.value for label in filter_.labels),
    ]


def segments_of(query: CostQuery) -> list[Segment]:
    """The coarsest cover that answers a query without labels exactly."""
    return list(cover(query.filter.start, query.filter.end, grains_of(query)))


def grains_of(query: CostQuery) -> tuple[int, ...]:
    """The grains of roll-ups that answer the query exactly."""
    where = query.filter
    if query.time is None:
        return (DAY, HOUR, QUARTER)
    return grains_within(where.zone, where.start, where.end, hours=query.time is CostDimension.HOUR)


def _parts(query: CostQuery, segments: Sequence[Segment]) -> list[Rows]:
    raw = [_raw_part(query, segment) for segment in segments if segment.grain is None]
    rolled = [segment for segment in segments if segment.grain is not None]
    if not rolled or not query.label_keys:
        return [*raw, *(_rollup_part(query, segment, usage_rollups) for segment in rolled)]
    labelled = [_rollup_part(query, segment, label_rollups) for segment in rolled]
    if query.label_key is None or query.filter.labels:
        return [*raw, *labelled]
    return [*raw, *_with_unlabelled(query, rolled, labelled)]


def _with_unlabelled(query: CostQuery, segments: Sequence[Segment], labelled: Sequence[Rows]) -> list[Rows]:
    """The calls without the label are all calls less those with it."""
    sums = _grouped(query, labelled).cte("labelled")
    taken = [
        _NO_LABEL.label(name) if name == "label" else (-sums.c[name]).label(name) if name in MEASURES else sums.c[name]
        for name in (*dimension_names(query), *MEASURES)
    ]
    return [select(*sums.c), select(*taken), *(_rollup_part(query, segment, usage_rollups) for segment in segments)]


def _rollup_part(query: CostQuery, segment: Segment, table: Table) -> Rows:
    columns = table.c
    conditions = [
        columns.grain == segment.grain,
        columns.bucket >= segment.start,
        columns.bucket < segment.end,
        *_conditions(query.filter, table),
    ]
    if table is label_rollups:
        (key,) = query.label_keys
        conditions += [columns.label_key == key, *(columns.label_value == label.value for label in query.filter.labels)]
    if query.time is None or query.filter.time_zone == "UTC":
        return select(*_dimensions(query, table, columns.bucket), *(columns[name] for name in MEASURES)).where(*conditions)
    return _by_local_time(query, table, conditions)


def _by_local_time(query: CostQuery, table: Table, conditions: Sequence[ColumnElement[bool]]) -> Rows:
    """Local times are slow to compute, so rows are summed by bucket before."""
    dimensions = [
        _dimension(dimension, query, table, table.c.bucket).label(_NAMES[dimension])
        for dimension in query.group_by
        if dimension is not query.time
    ]
    sums = [func.sum(table.c[name]).label(name) for name in MEASURES]
    summed = select(table.c.bucket, *dimensions, *sums).where(*conditions).group_by(table.c.bucket, *dimensions).subquery()
    columns = [
        _dimension(dimension, query, table, summed.c.bucket).label(_NAMES[dimension])
        if dimension is query.time
        else summed.c[_NAMES[dimension]]
        for dimension in query.group_by
    ]
    return select(*columns, *(summed.c[name] for name in MEASURES))


def _raw_part(query: CostQuery, segment: Segment) -> Rows:
    records = usage_records.c
    tokens_in = (
        records.uncached_input_tokens
        + records.cached_input_tokens
        + records.cache_write_5m_tokens
        + records.cache_write_1h_tokens
    )
    tokens_out = records.visible_output_tokens + records.reasoning_tokens
    measures: Mapping[str, Element] = {
        "cost_usd": func.coalesce(records.cost_usd, 0),
        "saved_usd": func.coalesce(records.saved_usd, 0),
        "requests": literal(1),
        "failures": _one_if(records.outcome != "SUCCEEDED"),
        "cache_hits": _one_if(records.cache_tier.is_not(None)),
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "cached_input_tokens": records.cached_input_tokens,
        "reasoning_tokens": records.reasoning_tokens,
        "unpriced_requests": _one_if(and_(records.cost_usd.is_(None), tokens_in + tokens_out > 0)),
        "unconfirmed_usd": case((records.confirmed, 0), else_=func.coalesce(records.cost_usd, 0)),
    }
    span = and_(records.at >= segment.start, records.at < segment.end)
    return select(*_dimensions(query, usage_records, records.at), *(measures[name].label(name) for name in MEASURES)).where(
        *record_conditions(query.filter, span)
    )


def _one_if(condition: ColumnElement[bool]) -> Element:
    return case((condition, 1), else_=0)


def _dimensions(query: CostQuery, table: Table, moment: Element) -> list[Element]:
    return [_dimension(dimension, query, table, moment).label(_NAMES[dimension]) for dimension in query.group_by]


def _dimension(dimension: CostDimension, query: CostQuery, table: Table, moment: Element) -> Element:
    if dimension is CostDimension.LABEL:
        return _label(query, table)
    if dimension is CostDimension.AGENT:
        return func.nullif(table.c.agent, "")
    if query.time is not dimension:
        return table.c[_NAMES[dimension]]
    zone, unit = query.filter.time_zone, dimension.value.lower()
    if zone == "UTC":
        return func.date_trunc(unit, moment, zone, type_=DateTime(timezone=True))
    if dimension is CostDimension.HOUR:
        return _local_hour(moment, zone)
    local = func.date_trunc(unit, func.timezone(zone, moment))
    return func.local_instant(local, zone, type_=DateTime(timezone=True))


def _label(query: CostQuery, table: Table) -> Element:
    if table is label_rollups:
        return label_rollups.c.label_value
    if table is usage_rollups:
        return _NO_LABEL
    label: Element = usage_records.c.labels[query.label_key].astext
    return label


def _local_hour(moment: Element, zone: str) -> Element:
    """Truncation keeps the UTC offset of the moment. If clocks change by half an hour, the local hour in which they change
    starts later than the truncated time."""
    start: Element = func.date_trunc("hour", moment, zone, type_=DateTime(timezone=True))
    local = func.timezone(zone, start, type_=DateTime())
    hour = func.date_trunc("hour", local, type_=DateTime())
    return case((local == hour, start), else_=start + (hour + timedelta(hours=1) - local))


def _conditions(where: CostFilter, table: Table) -> list[ColumnElement[bool]]:
    operations = None if where.operations is None else tuple(operation.value for operation in where.operations)
    wanted = (
        (table.c.tenant, where.tenants),
        (table.c.provider, where.providers),
        (table.c.model, where.models),
        (table.c.agent, where.agents),
        (table.c.operation, operations),
    )
    return [column == values[0] if len(values) == 1 else column.in_(values) for column, values in wanted if values is not None]


def _page(query: CostQuery, names: Sequence[str], grouped: FromClause, after: tuple[Decimal, str] | None) -> FromClause:
    columns = grouped.c
    rank: dict[CostOrderField, Element] = {
        CostOrderField.COST: columns.cost_usd,
        CostOrderField.REQUESTS: columns.requests,
        CostOrderField.TOKENS: columns.input_tokens + columns.output_tokens,
    }
    ranked: Element = (
        func.extract("epoch", columns.period_start) if query.order.field is CostOrderField.PERIOD else rank[query.order.field]
    )
    place = func.jsonb_build_array(*(columns[name] for name in names))
    rows = select(*columns, cast(ranked, Numeric).label(RANK), cast(place, Text).label(PLACE)).subquery()
    page = select(*rows.c).order_by(*_order(rows, query.order.direction)).limit(query.page.first + 1)
    if not names:
        page = page.where(literal(1) == 0)
    if after is not None:
        page = page.where(_behind(rows, query.order.direction, after))
    return page.subquery()


def _order(rows: FromClause, direction: Direction) -> list[Element]:
    return [rows.c[RANK].desc() if direction is Direction.DESC else rows.c[RANK].asc(), rows.c[PLACE].asc()]


def _behind(rows: FromClause, direction: Direction, after: tuple[Decimal, str]) -> ColumnElement[bool]:
    rank, place = after
    further = rows.c[RANK] < rank if direction is Direction.DESC else rows.c[RANK] > rank
    return or_(further, and_(rows.c[RANK] == rank, rows.c[PLACE] > place))
