from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import select, text

from app.costs.statements import Statements
from app.db.engines import Engines, build_engines
from app.db.sessions import Sessions
from app.db.statement_times import BUCKETS, Durations, StatementTimes, named, statement_name
from app.db.tables.budgets import budgets
from app.domain.errors import StoreUnavailable
from app.runtime.clock import SystemClock
from app.settings import DatabaseSettings
from tests.clocks import ManualClock

LIMITS = DatabaseSettings(slow_statement=timedelta(milliseconds=100), statement_timeout=timedelta(milliseconds=300))


class TestName:
    @pytest.mark.parametrize(
        ("statement", "name"),
        [
            ("select /* budgets.page */ id from budgets", "budgets.page"),
            ("/* relay.head */ select 1", "relay.head"),
            ("select 1 /* Not a name */", "select"),
            (f"select '{'x' * 100}' /* too.late */", "select"),
            ("select id, name from budgets where key = $1 for update", "select.budgets"),
            ("SELECT api_keys.id \nFROM api_keys", "select.api_keys"),
            ("select count(*) from budget_now", "select.budget_now"),
            ("select * from webhook_take($1)", "select.webhook_take"),
            ("select outbox_sequence($1)", "select.outbox_sequence"),
            ("insert into kept (a) values (1) on conflict (a) do update set a = 2", "insert.kept"),
            ("with due as (select 1 from kept for update skip locked) delete from gone using due", "delete.gone"),
            ("update maintenance set begun_at = now() from other", "update.maintenance"),
            ("set local lock_timeout = '1s'", "set"),
            ("", "empty"),
        ],
    )
    def test_is_the_first_comment_or_what_the_statement_does(self, statement: str, name: str) -> None:
        assert statement_name(statement) == name

    def test_is_given_to_a_statement_of_core(self) -> None:
        asked = named("tests.core", select(budgets.c.name).where(budgets.c.name == "x"))
        assert statement_name(str(asked)) == "tests.core"


class TestDurations:
    def test_are_counted_up_to_each_bound(self) -> None:
        durations = Durations()
        for seconds in (0.0005, 0.001, 0.003, 60.0):
            durations.add(seconds)
        assert durations.counts == [2, 0, 1, *[0] * (len(BUCKETS) - 3), 1]
        assert durations.seconds == pytest.approx(60.0045)


class TestSlowStatement:
    @pytest.mark.anyio
    async def test_is_logged_from_the_limit_on(self, caplog: pytest.LogCaptureFixture) -> None:
        clock = ManualClock()
        times = StatementTimes(timedelta(seconds=1), clock.monotonic)
        for seconds in (0.9, 1.0):
            started = times.now()
            await clock.advance(seconds)
            times.add("select /* tests.slow */ 1", started)
        (line,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert (line.getMessage(), line.__dict__["statement"], line.__dict__["seconds"]) == (
            "a statement was slow",
            "tests.slow",
            1.0,
        )


@pytest.fixture
async def engines(database_url: str) -> AsyncIterator[Engines]:
    engines = build_engines(database_url, [], LIMITS)
    yield engines
    await engines.close()


@pytest.mark.anyio
class TestStatementsOfAnEngine:
    async def test_are_timed_and_a_slow_one_is_logged_without_its_values(
        self, engines: Engines, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with Sessions(engines).read() as session:
            await session.execute(
                text("select /* tests.sleep */ pg_sleep(0.11), cast(:secret as text)"), {"secret": "Quixalorne"}
            )
            await session.execute(text("select /* tests.quick */ 1"))
        times = engines.times.by_name
        assert (sum(times["tests.sleep"].counts), sum(times["tests.quick"].counts)) == (1, 1)
        assert times["tests.sleep"].seconds >= 0.11
        assert [record.__dict__["statement"] for record in caplog.records if "slow" in record.getMessage()] == ["tests.sleep"]
        assert "Quixalorne" not in "".join(str(record.__dict__) for record in caplog.records)

    async def test_count_also_if_they_fail(self, engines: Engines) -> None:
        with pytest.raises(StoreUnavailable):
            async with Sessions(engines).read() as session:
                await session.execute(text("select /* tests.too_long */ pg_sleep(5)"))
        assert 0.25 < engines.times.by_name["tests.too_long"].seconds < 5

    async def test_of_the_ledger_are_timed_too(self, engines: Engines) -> None:
        ledger = Statements(engines, SystemClock(), timedelta(seconds=5))
        await ledger.fetch("select /* tests.ledger */ $1::int", 1)
        await ledger.close()
        assert sum(engines.times.by_name["tests.ledger"].counts) == 1
