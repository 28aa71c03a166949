"""Readiness and startup, on a clock that only the tests move."""

from __future__ import annotations

import asyncio
import logging

import pytest

from app.domain.errors import StoreUnavailable
from app.health.checks import Check, Health, Verdict
from app.runtime.drain import Drain
from tests.clocks import ManualClock, settle

pytestmark = pytest.mark.anyio


class Store:
    """Counts how often it is asked; is away, silent or broken on demand."""

    def __init__(self) -> None:
        self.asked = 0
        self.away = False
        self.silent = False
        self.broken = False

    async def probe(self) -> None:
        self.asked += 1
        if self.silent:
            await asyncio.Event().wait()
        if self.broken:
            raise ZeroDivisionError
        if self.away:
            raise StoreUnavailable("PostgreSQL")


class World:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.drain = Drain(20, self.clock.monotonic)
        self.needed, self.optional = Store(), Store()
        checks = [Check("needed", self.needed.probe, required=True), Check("optional", self.optional.probe)]
        self.health = Health(checks, self.clock, self.drain)


@pytest.fixture
def world() -> World:
    return World()


class TestReady:
    async def test_all_well_is_ok(self, world: World) -> None:
        assert (await world.health.ready()).verdict is Verdict.OK

    async def test_without_the_required_it_is_unavailable(self, world: World) -> None:
        world.needed.away = True
        assert (await world.health.ready()).verdict is Verdict.UNAVAILABLE

    async def test_without_the_optional_it_is_degraded(self, world: World) -> None:
        world.optional.away = True
        report = await world.health.ready()
        assert report.verdict is Verdict.DEGRADED
        assert {finding.name: finding.ok for finding in report.checks} == {"needed": True, "optional": False}

    async def test_a_store_that_says_nothing_costs_less_than_a_second(self, world: World) -> None:
        world.needed.silent = world.optional.silent = True
        asking = asyncio.ensure_future(world.health.ready())
        await world.clock.advance(0.9)
        assert asking.done()
        assert (await asking).verdict is Verdict.UNAVAILABLE

    async def test_it_is_asked_again_after_five_seconds(self, world: World) -> None:
        await world.health.ready()
        world.needed.away = True
        await world.clock.advance(4.9)
        assert (await world.health.ready()).verdict is Verdict.OK
        await world.clock.advance(0.2)
        assert (await world.health.ready()).verdict is Verdict.UNAVAILABLE
        assert world.needed.asked == 2

    async def test_those_who_ask_at_once_share_one_run(self, world: World) -> None:
        reports = await asyncio.gather(*(world.health.ready() for _ in range(10)))
        assert len({id(report) for report in reports}) == 1
        assert world.needed.asked == 1

    async def test_one_who_leaves_does_not_spoil_it_for_the_others(self, world: World) -> None:
        world.optional.silent = True
        leaving, staying = asyncio.ensure_future(world.health.ready()), asyncio.ensure_future(world.health.ready())
        await settle()
        leaving.cancel()
        await world.clock.advance(1)
        assert (await staying).verdict is Verdict.DEGRADED

    async def test_a_broken_check_is_logged_and_counts_as_away(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        world.optional.broken = True
        with caplog.at_level(logging.ERROR):
            assert (await world.health.ready()).verdict is Verdict.DEGRADED
        assert [record.message for record in caplog.records] == ["a health check failed"]


class TestStarted:
    async def test_it_is_fresh_until_it_has_passed_once(self, world: World) -> None:
        world.needed.away = True
        for _ in range(3):
            assert (await world.health.started()).verdict is Verdict.UNAVAILABLE
        world.needed.away = False
        assert (await world.health.started()).verdict is Verdict.OK
        assert world.needed.asked == 4

    async def test_then_it_is_thirty_seconds_old_at_most(self, world: World) -> None:
        await world.health.started()
        await world.clock.advance(29)
        await world.health.started()
        assert world.needed.asked == 1
        await world.clock.advance(2)
        await world.health.started()
        assert world.needed.asked == 2

    async def test_what_it_can_serve_without_is_not_asked(self, world: World) -> None:
        await world.health.started()
        assert world.optional.asked == 0


class TestReasons:
    async def test_are_categories_and_never_the_text_of_a_store(self, world: World) -> None:
        world.needed.away = True
        world.optional.broken = True
        found = {finding.name: finding.reason for finding in (await world.health.details()).checks}
        assert found == {"needed": "unavailable", "optional": "the check failed"}

    async def test_are_given_also_while_the_process_drains(self, world: World) -> None:
        world.optional.away = True
        world.drain.begin()
        report = await world.health.details()
        assert (report.draining, report.checked, report.verdict) == (True, Verdict.DEGRADED, Verdict.DRAINING)

    async def test_ten_thousand_probes_at_once_are_one_run_of_the_checks(self, world: World) -> None:
        reports = await asyncio.gather(*(world.health.ready() for _ in range(10_000)))
        assert {report.verdict for report in reports} == {Verdict.OK}
        assert (world.needed.asked, world.optional.asked) == (1, 1)
