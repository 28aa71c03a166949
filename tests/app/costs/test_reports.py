from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, text

from app.costs.periods import DAY, HOUR, QUARTER, cover
from app.costs.queries import CostDimension, CostFilter, CostOrder, CostOrderField, CostQuery, Direction
from app.costs.reports import CostReports, CostRow
from app.db.sessions import Sessions
from app.db.tables.usage import usage_records
from app.domain.errors import Refused
from app.domain.paging import PageRequest, encode_cursor
from app.domain.problems import InvalidInput
from app.domain.usage import Label, Operation

pytestmark = pytest.mark.anyio

D = CostDimension
START = datetime(2026, 3, 27, 9, 7, 33, tzinfo=UTC)


def record(at: datetime, cost: str | None = "1", **more: object) -> dict[str, object]:
    return {
        "key": uuid4(),
        "at": at,
        "operation": "COMPLETION",
        "tenant": "acme",
        "agent": None,
        "labels": {},
        "provider": "openai",
        "model": "gpt-4o",
        "outcome": "SUCCEEDED",
        "uncached_input_tokens": 100,
        "cached_input_tokens": 10,
        "cache_write_5m_tokens": 1,
        "cache_write_1h_tokens": 0,
        "visible_output_tokens": 50,
        "reasoning_tokens": 5,
        "cost_usd": None if cost is None else Decimal(cost),
        "saved_usd": None,
        "cache_tier": None,
        "latency_ms": 1.0,
        "confirmed": True,
    } | more


async def write(sessions: Sessions, records: list[dict[str, object]]) -> None:
    """As the ledger writes them: the records, and the roll-ups that go with them."""
    async with sessions.write() as session:
        await session.execute(insert(usage_records), records)
        await session.execute(text("delete from usage_rollups"))
        await session.execute(text(_ROLL_UP))


_ROLL_UP = """
    insert into usage_rollups
    select g.grain, w.tenant, g.bucket, w.provider, w.model, coalesce(w.agent, ''), w.operation, count(*),
        count(*) filter (where w.outcome <> 'SUCCEEDED'), count(w.cache_tier), count(*) filter (where w.cost_usd is null),
        sum(uncached_input_tokens + cached_input_tokens + cache_write_5m_tokens + cache_write_1h_tokens),
        sum(visible_output_tokens + reasoning_tokens), sum(cached_input_tokens), sum(reasoning_tokens),
        coalesce(sum(cost_usd), 0), coalesce(sum(saved_usd), 0), coalesce(sum(cost_usd) filter (where not confirmed), 0)
    from usage_records w cross join lateral usage_buckets(w.at) g group by 1, 2, 3, 4, 5, 6, 7
"""


_HOUR_STARTS = """
    select p.starts from unnest(cast(:moments as timestamptz[])) at cross join lateral budget_period('HOUR', :zone, at, at) p
"""


def a_week() -> list[dict[str, object]]:
    """One call every 47 minutes around a change to summer time, by changing payers and targets."""
    return [
        record(
            START + timedelta(minutes=47 * n),
            None if n % 13 == 0 else f"0.{n + 1:04}00000001",
            agent=("writer", "reader", None)[n % 3],
            model=("gpt-4o", "gpt-5")[n % 2],
            tenant=("acme", "acme", "other")[n % 3],
            labels={"team": ("red", "blue")[n % 2]} if n % 5 else {},
            outcome="FAILED" if n % 7 == 0 else "SUCCEEDED",
            confirmed=n % 11 != 0,
        )
        for n in range(214)
    ]


def span(start: datetime = START, end: datetime = START + timedelta(days=8), **more: object) -> CostFilter:
    return CostFilter(start, end, **({"tenants": None} | more))  # type: ignore[arg-type]  # given by the test as they are


@pytest.fixture
def reports(sessions: Sessions) -> CostReports:
    return CostReports(sessions)


class TestCosts:
    @pytest.mark.parametrize(
        "zone", ["UTC", "Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Havana"]
    )
    @pytest.mark.parametrize("unit", [D.HOUR, D.DAY, D.MONTH])
    async def test_roll_ups_say_what_the_records_say(
        self, reports: CostReports, sessions: Sessions, zone: str, unit: CostDimension
    ) -> None:
        """A label that every record has makes the second answer come from the records alone."""
        await write(sessions, [one | {"labels": {"all": "yes"}} for one in a_week()])
        where = span(START + timedelta(hours=5, minutes=3), START + timedelta(days=6, minutes=1), time_zone=zone)
        raw = span(where.start, where.end, time_zone=zone, labels=(Label("all", "yes"),))
        order, page = CostOrder(CostOrderField.PERIOD, Direction.ASC), PageRequest(100)
        rolled = await reports.costs(CostQuery(where, (unit, D.MODEL), order=order, page=page))
        exact = await reports.costs(CostQuery(raw, (unit, D.MODEL), order=order, page=page))
        assert rolled.totals == exact.totals
        assert rolled.rows == exact.rows
        assert rolled.totals.requests > 150

    async def test_hours_are_the_budgets_where_the_clocks_change_by_half_of_one(
        self, reports: CostReports, sessions: Sessions
    ) -> None:
        zone, begin = "Australia/Lord_Howe", datetime(2026, 4, 4, 12, tzinfo=UTC)
        moments = [begin + timedelta(minutes=15 * n) for n in range(24)]
        moments += [datetime(2026, 10, 3, 12, tzinfo=UTC) + timedelta(minutes=15 * n) for n in range(24)]
        await write(sessions, [record(at) for at in moments])
        order = CostOrder(CostOrderField.PERIOD, Direction.ASC)
        report = await reports.costs(
            CostQuery(span(begin, begin + timedelta(days=200), time_zone=zone), (D.HOUR,), order=order, page=PageRequest(100))
        )
        async with sessions.read() as session:
            starts = (await session.execute(text(_HOUR_STARTS), {"moments": moments, "zone": zone})).scalars().all()
        assert {row.period_start: row.requests for row in report.rows.nodes} == Counter(starts)

    async def test_totals_count_every_kind(self, reports: CostReports, sessions: Sessions) -> None:
        records = a_week()
        await write(sessions, records)
        totals = (await reports.costs(CostQuery(span()))).totals
        costs = [one["cost_usd"] for one in records]
        assert totals.cost_usd == sum(cost for cost in costs if isinstance(cost, Decimal))
        assert (totals.requests, totals.unpriced_requests) == (214, costs.count(None))
        assert (totals.input_tokens, totals.output_tokens) == (214 * 111, 214 * 55)
        assert totals.failures == sum(one["outcome"] == "FAILED" for one in records)
        assert 0 < totals.unconfirmed_usd < totals.cost_usd

    async def test_groups_by_three_dimensions_and_knows_the_absent(self, reports: CostReports, sessions: Sessions) -> None:
        await write(sessions, a_week())
        query = CostQuery(span(), (D.AGENT, D.LABEL, D.OPERATION), label_key="team", page=PageRequest(100))
        rows = (await reports.costs(query)).rows.nodes
        assert {(row.agent, row.label) for row in rows} == {
            (a, t) for a in ("writer", "reader", None) for t in ("red", "blue", None)
        }
        assert {row.operation for row in rows} == {Operation.COMPLETION}
        assert all(row.model is None and row.period_start is None for row in rows)

    async def test_a_tenant_sees_its_own(self, reports: CostReports, sessions: Sessions) -> None:
        await write(sessions, a_week())
        report = await reports.costs(CostQuery(span(tenants=("other",)), (D.TENANT,)))
        assert [row.tenant for row in report.rows.nodes] == ["other"]
        assert report.totals.requests == 71

    @pytest.mark.parametrize("by", list(CostOrderField))
    @pytest.mark.parametrize("direction", list(Direction))
    async def test_pages_give_every_row_once_in_order(
        self, reports: CostReports, sessions: Sessions, by: CostOrderField, direction: Direction
    ) -> None:
        await write(sessions, a_week())
        rows: list[CostRow] = []
        after = None
        while True:
            page = (
                await reports.costs(
                    CostQuery(span(), (D.DAY, D.AGENT), order=CostOrder(by, direction), page=PageRequest(7, after))
                )
            ).rows
            rows += page.nodes
            after = page.page_info.end_cursor
            if not page.page_info.has_next_page:
                break
        whole = (
            await reports.costs(CostQuery(span(), (D.DAY, D.AGENT), order=CostOrder(by, direction), page=PageRequest(100)))
        ).rows
        assert tuple(rows) == whole.nodes
        figures = {
            CostOrderField.COST: [row.cost_usd for row in rows],
            CostOrderField.REQUESTS: [Decimal(row.requests) for row in rows],
            CostOrderField.TOKENS: [Decimal(row.input_tokens + row.output_tokens) for row in rows],
            CostOrderField.PERIOD: [Decimal(row.period_start.timestamp()) for row in rows if row.period_start],
        }[by]
        assert figures == sorted(figures, reverse=direction is Direction.DESC)
        assert len(rows) == len(set(rows)) > 20

    async def test_nothing_is_zero_and_no_rows(self, reports: CostReports) -> None:
        report = await reports.costs(CostQuery(span(), (D.MODEL,)))
        assert (report.totals.requests, report.rows.nodes) == (0, ())
        assert report.totals.cost_usd == 0


class TestWrongQuestions:
    @pytest.mark.parametrize(
        ("given", "path"),
        [
            ({"group_by": (D.MODEL, D.TENANT, D.AGENT, D.PROVIDER)}, ("groupBy",)),
            ({"group_by": (D.DAY, D.HOUR)}, ("groupBy",)),
            ({"group_by": (D.MODEL, D.MODEL)}, ("groupBy",)),
            ({"group_by": (D.LABEL,)}, ("labelKey",)),
            ({"label_key": "team"}, ("labelKey",)),
            ({"order": CostOrder(CostOrderField.PERIOD)}, ("orderBy", "field")),
        ],
    )
    def test_are_refused_with_their_path(self, given: dict[str, object], path: tuple[str, ...]) -> None:
        with pytest.raises(Refused) as refused:
            CostQuery(span(), **given)  # type: ignore[arg-type]  # given by the table above
        assert isinstance(refused.value.reason, InvalidInput)
        assert refused.value.reason.path == path

    def test_a_period_that_ends_before_it_starts(self) -> None:
        with pytest.raises(Refused) as refused:
            span(START, START)
        assert isinstance(refused.value.reason, InvalidInput)
        assert refused.value.reason.path == ("filter", "period", "to")

    @pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "\x00", "localtime", "Factory", "right/UTC", "Europe"])
    def test_an_unknown_zone(self, zone: str) -> None:
        with pytest.raises(Refused) as refused:
            span(time_zone=zone)
        assert isinstance(refused.value.reason, InvalidInput)
        assert refused.value.reason.path == ("filter", "timeZone")

    @pytest.mark.parametrize("cursor", ["", "x", "WyJjb3N0cyIsICJ4IiwgInkiXQ"])
    async def test_a_cursor_of_another_list(self, reports: CostReports, cursor: str) -> None:
        with pytest.raises(Refused):
            await reports.costs(CostQuery(span(), (D.MODEL,), page=PageRequest(1, cursor)))
        with pytest.raises(Refused):
            await reports.records(span(), PageRequest(1, cursor))

    @pytest.mark.parametrize(
        "position",
        [
            ("1E+999999999", "x"), ("1E-999999999", "x"), ("NaN", "x"), ("sNaN", "x"), ("-Infinity", "x"), ("1", "\0"),
            ("1", "\ud800"),
        ],
    )  # fmt: skip
    async def test_a_forged_cursor_of_rows(self, reports: CostReports, position: tuple[str, str]) -> None:
        with pytest.raises(Refused):
            await reports.costs(CostQuery(span(), (D.MODEL,), page=PageRequest(1, encode_cursor("costs", *position))))

    @pytest.mark.parametrize("at", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-03-01T00:00:00", "x"])
    async def test_a_forged_cursor_of_records(self, reports: CostReports, at: str) -> None:
        with pytest.raises(Refused):
            await reports.records(span(), PageRequest(1, encode_cursor("usage", at, "0" * 32)))


class TestRecords:
    async def test_come_newest_first_in_pages(self, reports: CostReports, sessions: Sessions) -> None:
        records = a_week()
        await write(sessions, records)
        keys: list[UUID] = []
        after = None
        while True:
            page = await reports.records(span(tenants=("acme",)), PageRequest(50, after))
            keys += [one.key for one in page.nodes]
            after = page.page_info.end_cursor
            if not page.page_info.has_next_page:
                break
        assert keys == [one["key"] for one in reversed(records) if one["tenant"] == "acme"]

    async def test_filter_by_label_and_operation(self, reports: CostReports, sessions: Sessions) -> None:
        await write(sessions, a_week())
        where = span(labels=(Label("team", "red"),), operations=(Operation.COMPLETION,), models=("gpt-4o", "x"))
        found = (await reports.records(where, PageRequest(100))).nodes
        assert {one.labels for one in found} == {(Label("team", "red"),)}
        assert found[0].completion_id is None
        assert found[0].id == f"use_{found[0].key.hex}"
        empty = span(operations=(Operation.EMBEDDING,))
        assert (await reports.records(empty, PageRequest())).nodes == ()

    async def test_one_is_found_by_its_tenant_only(self, reports: CostReports, sessions: Sessions) -> None:
        one = record(START, price_source="configuration", price_input_usd=Decimal(2), price_output_usd=Decimal(8))
        await write(sessions, [one])
        key = one["key"]
        assert isinstance(key, UUID)
        found = await reports.record(key, "acme")
        assert found is not None
        assert found.price is not None
        assert (found.price.source, found.cost_usd, found.confirmed) == ("configuration", Decimal(1), True)
        assert await reports.record(key, "other") is None
        assert await reports.record(key, None) == found


class TestCover:
    moments = st.integers(0, 60 * 24 * 200).map(lambda minutes: START + timedelta(minutes=minutes))

    @given(moments, moments, st.sampled_from([(DAY, HOUR, QUARTER), (HOUR, QUARTER), (QUARTER,), ()]))
    def test_is_the_whole_span_without_gap_or_overlap(self, start: datetime, end: datetime, grains: tuple[int, ...]) -> None:
        segments = list(cover(start, end, grains))
        assert [one.start for one in segments[1:]] == [one.end for one in segments[:-1]]
        assert (segments[0].start, segments[-1].end) == (start, end) if start < end else not segments
        raw = sum((one.end - one.start for one in segments if one.grain is None), timedelta())
        assert not grains or raw < timedelta(minutes=30)
        for one in segments:
            if one.grain is not None:
                assert one.start.timestamp() % (one.grain * 60) == one.end.timestamp() % (one.grain * 60) == 0
