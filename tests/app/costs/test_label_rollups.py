"""Reports with labels, from roll-ups, compared with the same reports from records alone."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from app.costs.export import CostExports, ExportFormat, Ticket
from app.costs.label_rollups import MAX_GAPS, LabelRollups, read_segments
from app.costs.ledger import PostgresLedger
from app.costs.periods import QUARTER, Segment
from app.costs.queries import CostDimension, CostFilter, CostOrder, CostOrderField, CostQuery, Direction
from app.costs.report_statements import costs_statement, groups_statement
from app.costs.reports import CostReports
from app.db.sessions import Sessions
from app.domain.paging import PageRequest
from app.domain.usage import Label, Operation
from tests.app.costs.calls import asked, attempt, payer, settlement
from tests.app.costs.conftest import LedgerMaker
from tests.app.costs.test_reports import START, a_week, record, span, write
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio

D = CostDimension
ZONES = ("UTC", "Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns")
ALL = PageRequest(100)
NOW_TOO = timedelta(minutes=-20)
"""Counts the present quarter as well, so that what is settled now is a correction."""


def labelled_week() -> list[dict[str, object]]:
    """Calls with no label, one or two; a value of one key is that of another too."""
    week = a_week()
    for number, one in enumerate(week):
        labels = {"team": ("red", "blue")[number % 2]} if number % 5 else {}
        one["labels"] = labels | ({"stage": ("red", "live", "")[number % 3]} if number % 4 else {})
        one["cache_tier"] = "MEMORY" if number % 6 == 0 else None
        one["saved_usd"] = Decimal("0.5") if number % 6 == 0 else None
        one["operation"] = ("COMPLETION", "EMBEDDING")[number % 9 == 0]
    return week


async def fill(sessions: Sessions, max_late: timedelta = timedelta(minutes=5)) -> None:
    await LabelRollups(sessions, ManualClock(), max_late=max_late).fill()


async def both(sessions: Sessions, query: CostQuery) -> tuple[Sequence[Any], Sequence[Any], list[Segment]]:
    """The report as it is read with all its rows, the report from records of the same snapshot, and what the first one read."""
    async with sessions.read() as session:
        segments = await read_segments(session, query)
        rolled, raw = [
            [*await session.execute(costs_statement(query, read, None)), *await session.execute(groups_statement(query, read))]
            for read in (segments, [Segment(None, query.filter.start, query.filter.end)])
        ]
    return rolled, raw, segments


async def agree(sessions: Sessions, query: CostQuery) -> list[Segment]:
    rolled, raw, segments = await both(sessions, query)
    assert rolled == raw
    return segments


def rolled_up(segments: Sequence[Segment]) -> timedelta:
    return sum((one.end - one.start for one in segments if one.grain is not None), timedelta())


async def stale(sessions: Sessions) -> int:
    async with sessions.read() as session:
        return int((await session.execute(text("select count(*) from label_rollups_stale"))).scalar_one())


async def exported(sessions: Sessions) -> bytes:
    where = span(labels=(Label("stage", "live"),))
    ticket = Ticket(where, ExportFormat.CSV, (D.MODEL,), START, UUID(int=1))
    return b"".join([piece async for piece in CostExports(sessions, ManualClock(), "").content(ticket)])


class TestRollUps:
    async def test_say_what_the_records_say_in_every_zone(self, sessions: Sessions) -> None:
        await write(sessions, labelled_week())
        await fill(sessions)
        order = CostOrder(CostOrderField.PERIOD, Direction.ASC)
        for zone, unit in itertools.product(ZONES, (D.HOUR, D.DAY, D.MONTH)):
            where = span(START + timedelta(hours=5, minutes=3), START + timedelta(days=6, minutes=1), time_zone=zone)
            segments = await agree(sessions, CostQuery(where, (unit, D.LABEL), "team", order, ALL))
            assert rolled_up(segments) > timedelta(days=5, hours=12), (zone, unit)

    async def test_say_what_the_records_say_for_every_filter_and_grouping(self, sessions: Sessions) -> None:
        await write(sessions, labelled_week())
        await fill(sessions)
        filters = [
            span(time_zone="Asia/Kathmandu"),
            span(tenants=("acme", "other"), models=("gpt-5",)),
            span(agents=("writer", "reader"), operations=(Operation.COMPLETION,)),
            span(tenants=()),
        ]
        labels = [(), (Label("team", "red"),), (Label("stage", "none"),)]
        groups: list[tuple[tuple[D, ...], str | None]] = [
            ((D.MODEL,), None),
            ((D.LABEL,), "team"),
            ((D.LABEL, D.AGENT, D.TENANT), "team"),
            ((D.OPERATION, D.DAY, D.LABEL), "stage"),
            ((D.LABEL,), "unknown"),
        ]
        seen = rows = 0
        for where, given, (by, key) in itertools.product(filters, labels, groups):
            query = CostQuery(replace(where, labels=given), by, key, page=ALL)
            rolled, raw, segments = await both(sessions, query)
            assert rolled == raw, query
            rows += len(rolled)
            seen += bool(query.label_keys) and rolled_up(segments) > timedelta(days=7)
        assert (seen, rows > 150) == (4 * (4 + 3 + 2), True)

    async def test_of_labels_with_two_keys_are_read_from_records(self, sessions: Sessions) -> None:
        await write(sessions, labelled_week())
        await fill(sessions)
        query = CostQuery(span(labels=(Label("stage", "live"),)), (D.LABEL,), "team", page=ALL)
        assert rolled_up(await agree(sessions, query)) == timedelta()

    async def test_are_filled_while_reports_are_read(self, sessions: Sessions) -> None:
        """A database that had records before is right in every state on the way."""
        await write(sessions, labelled_week())
        query = CostQuery(span(), (D.LABEL, D.DAY), "team", page=ALL)
        spans = [rolled_up(await agree(sessions, query))]
        more = True
        while more:
            async with sessions.write() as session:
                for _ in range(40):
                    more = (await session.execute(text("select extend_label_rollups()"))).scalar_one()
            spans.append(rolled_up(await agree(sessions, query)))
        assert spans[0] == timedelta()
        assert spans == sorted(spans)
        assert len(set(spans)) > 4

    async def test_are_filled_once_by_processes_at_the_same_time(self, sessions: Sessions) -> None:
        await write(sessions, labelled_week())
        await asyncio.gather(*(fill(sessions) for _ in range(4)))
        assert rolled_up(await agree(sessions, CostQuery(span(), (D.LABEL,), "team", page=ALL))) > timedelta(days=7)

    async def test_take_labels_that_are_too_long_for_an_index(self, sessions: Sessions) -> None:
        """Letters that do not compress, each of four bytes."""
        long = "".join(chr(0x10000 + n * 7919 % 0x9000) for n in range(256))
        await write(sessions, [record(START, labels={long[:64]: long}, agent=long[::-1], model=long[3:], tenant=long[:100])])
        await fill(sessions)
        report = await CostReports(sessions).costs(CostQuery(span(), (D.LABEL, D.AGENT), long[:64]))
        assert [(row.label, row.agent) for row in report.rows.nodes] == [(long, long[::-1])]

    async def test_serve_exports(self, sessions: Sessions) -> None:
        await write(sessions, labelled_week())
        before = await exported(sessions)
        await fill(sessions)
        after = await exported(sessions)
        assert (after, len(after.splitlines())) == (before, 1 + 2 + 1)


class TestCorrections:
    query = CostQuery(
        CostFilter(datetime.now(UTC) - timedelta(days=1), datetime.now(UTC) + timedelta(days=1), ("acme",)),
        (D.LABEL, D.MODEL),
        "team",
        page=ALL,
    )

    async def test_of_counted_records_are_read_at_once_and_counted_later(
        self, ledger: PostgresLedger, sessions: Sessions
    ) -> None:
        request = asked(payer(team="red"))
        await ledger.admit(request)
        await fill(sessions, NOW_TOO)
        before = rolled_up(await agree(sessions, self.query))
        await ledger.settle(settlement(request, attempt("0.5")))
        assert await stale(sessions) == 1
        assert rolled_up(await agree(sessions, self.query)) == before - timedelta(minutes=QUARTER)
        await fill(sessions, NOW_TOO)
        assert await stale(sessions) == 0
        assert rolled_up(await agree(sessions, self.query)) >= before > timedelta(hours=20)
        report = await CostReports(sessions).costs(self.query)
        assert [(row.label, row.cost_usd) for row in report.rows.nodes] == [("red", Decimal("0.5"))]

    async def test_of_a_swept_call_leave_no_row_of_its_estimate(
        self, new_ledger: LedgerMaker, ledger: PostgresLedger, sessions: Sessions
    ) -> None:
        request = asked(payer(team="red"))
        await ledger.admit(request)
        async with sessions.write() as session:
            await session.execute(text("update completions set lease_until = now() - interval '1 hour'"))
        assert await new_ledger().sweep() == 1
        await fill(sessions, NOW_TOO)
        (row,) = (await CostReports(sessions).costs(self.query)).rows.nodes
        assert (row.model, row.cost_usd, row.unconfirmed_usd) == ("gpt-4o", Decimal(2), Decimal(2))
        await ledger.settle(settlement(request, attempt("0.5", model="gpt-5")))
        for _ in range(2):
            await agree(sessions, self.query)
            (row,) = (await CostReports(sessions).costs(self.query)).rows.nodes
            assert (row.model, row.cost_usd, row.unconfirmed_usd) == ("gpt-5", Decimal("0.5"), Decimal(0))
            await fill(sessions, NOW_TOO)

    async def test_of_calls_without_labels_and_of_other_tenants_concern_no_report(
        self, ledger: PostgresLedger, sessions: Sessions
    ) -> None:
        await fill(sessions, NOW_TOO)
        before = await agree(sessions, self.query)
        for who in (payer(), payer("other", team="red")):
            request = asked(who)
            await ledger.admit(request)
            await ledger.settle(settlement(request))
        assert await stale(sessions) == 1
        assert await agree(sessions, self.query) == before

    async def test_of_very_many_quarters_are_read_as_one_span(self, sessions: Sessions) -> None:
        await write(sessions, labelled_week())
        await fill(sessions)
        mark = "insert into label_rollups_stale (tenant, bucket) values ('acme', cast(:at as timestamptz))"
        query = CostQuery(span(), (D.LABEL,), "team", page=ALL)
        moments = (START.replace(minute=45, second=0) + timedelta(hours=3 * number) for number in itertools.count())
        for count, gaps in ((MAX_GAPS, MAX_GAPS + 2), (1, 3)):
            async with sessions.write() as session:
                for _ in range(count):
                    await session.execute(text(mark), {"at": next(moments)})
            assert len([one for one in await agree(sessions, query) if one.grain is None]) == gaps

    async def test_are_never_lost_while_calls_go_on(self, new_ledger: LedgerMaker, sessions: Sessions) -> None:
        """Calls are settled before, while and after their quarter is counted. Each report agrees with its own snapshot."""
        done = asyncio.Event()

        async def call(ledger: PostgresLedger, number: int) -> None:
            for turn in range(8):
                request = asked(payer(team=("red", "blue")[turn % 2], caller=str(number)))
                await ledger.admit(request)
                await ledger.settle(settlement(request, attempt("0.25")))

        async def count() -> int:
            rounds = 0
            while not done.is_set():
                await fill(sessions, NOW_TOO)
                rounds += 1
            return rounds

        async def read() -> int:
            reports = 0
            while not done.is_set():
                await agree(sessions, self.query)
                reports += 1
            return reports

        others = [asyncio.create_task(count()), asyncio.create_task(read())]
        ledgers = new_ledger(), new_ledger()
        await asyncio.gather(*(call(ledgers[number % 2], number) for number in range(20)))
        done.set()
        rounds, reports = await asyncio.gather(*others)
        await fill(sessions, NOW_TOO)
        assert await stale(sessions) == 0
        assert rolled_up(await agree(sessions, self.query)) > timedelta(minutes=15)
        assert (await CostReports(sessions).costs(self.query)).totals.requests == 160
        assert (rounds > 1, reports > 1) == (True, True)
