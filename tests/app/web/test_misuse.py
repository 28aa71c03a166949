"""Refusals of keys: what is counted, and what is logged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from app.domain.errors import Forbidden, RefusedKey, StoreUnavailable, Unauthenticated
from app.web.client_address import TrustedProxies
from app.web.misuse import Door, Misuse, Origin
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio

HINT = "abcdefghijkl"


def origin(address: str = "192.0.2.1", door: Door = Door.HTTP, *headers: tuple[bytes, bytes]) -> Origin:
    return Origin(door, {"type": "http", "client": (address, 4711), "headers": list(headers)})


def unknown(hint: str | None = HINT) -> Unauthenticated:
    return Unauthenticated("no", RefusedKey.UNKNOWN, hint)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def misuse(registry: CollectorRegistry, clock: ManualClock) -> AsyncIterator[Misuse]:
    misuse = Misuse(registry, TrustedProxies(["10.0.0.0/8"]), clock)
    yield misuse
    await misuse.close()


def counted(registry: CollectorRegistry, reason: str, door: str = "http") -> float | None:
    return registry.get_sample_value("greenlang_refusals_total", {"reason": reason, "door": door})


def series(registry: CollectorRegistry) -> int:
    return sum(len(metric.samples) for metric in registry.collect())


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "app.web.misuse"]


class TestCounters:
    @pytest.mark.parametrize("reason", RefusedKey)
    async def test_each_reason_has_its_own(self, misuse: Misuse, registry: CollectorRegistry, reason: RefusedKey) -> None:
        misuse.note(Unauthenticated("no", reason, HINT), origin())
        assert counted(registry, reason.value) == 1
        assert sum(counted(registry, each.value) or 0 for each in RefusedKey) == 1

    @pytest.mark.parametrize("door", Door)
    async def test_each_door_has_its_own(self, misuse: Misuse, registry: CollectorRegistry, door: Door) -> None:
        misuse.note(Forbidden(), origin(door=door), HINT)
        assert [counted(registry, "forbidden", each.value) for each in Door] == [float(each is door) for each in Door]

    async def test_other_errors_are_no_misuse(self, misuse: Misuse, registry: CollectorRegistry, caplog: object) -> None:
        for error in (StoreUnavailable("Redis"), ValueError(), None):
            misuse.note(error, origin())
        assert all(counted(registry, reason.value) == 0 for reason in RefusedKey)

    async def test_no_label_comes_from_a_other_caller(self, misuse: Misuse, registry: CollectorRegistry) -> None:
        before = series(registry)
        for number in range(1000):
            misuse.note(unknown(f"{number:012}"), origin(f"192.0.2.{number % 256}"))
        assert series(registry) == before


class TestWarnings:
    async def test_the_first_comes_at_once_with_what_is_known(self, misuse: Misuse, caplog: pytest.LogCaptureFixture) -> None:
        misuse.note(unknown(), origin(door=Door.WEBSOCKET))
        (line,) = lines(caplog)
        facts = {"refusals": 1, "reasons": {"unknown": 1}, "reason": "unknown", "door": "websocket", "hint": HINT}
        assert line.levelno == logging.WARNING
        assert {name: line.__dict__[name] for name in facts} == facts
        assert line.__dict__["client"] == "192.0.2.1"

    async def test_a_flood_is_one_line_a_minute_with_its_number(
        self, misuse: Misuse, clock: ManualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(3):
            for _ in range(7732):
                misuse.note(unknown(), origin())
            await asyncio.sleep(0)
            await clock.advance(60)
        assert [line.__dict__["refusals"] for line in lines(caplog)] == [1, 7731, 7732, 7732]

    async def test_a_short_flood_is_informed_when_its_minute_ends(
        self, misuse: Misuse, clock: ManualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(100):
            misuse.note(unknown(), origin())
        misuse.note(Unauthenticated("no", RefusedKey.MISSING), origin())
        await asyncio.sleep(0)
        await clock.advance(60)
        assert lines(caplog)[1].__dict__["reasons"] == {"unknown": 99, "missing": 1}
        assert lines(caplog)[1].__dict__["hint"] == HINT

    async def test_after_a_quiet_minute_the_next_comes_at_once_again(
        self, misuse: Misuse, clock: ManualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        misuse.note(unknown(), origin())
        await asyncio.sleep(0)
        await clock.advance(60)
        await asyncio.sleep(0)
        misuse.note(unknown(), origin())
        assert [line.__dict__["refusals"] for line in lines(caplog)] == [1, 1]

    async def test_the_client_of_a_trusted_proxy_is_the_one_it_names(
        self, misuse: Misuse, caplog: pytest.LogCaptureFixture
    ) -> None:
        misuse.note(unknown(), origin("10.0.0.1", Door.HTTP, (b"x-forwarded-for", b"198.51.100.7")))
        assert lines(caplog)[0].__dict__["client"] == "198.51.100.7"

    async def test_an_end_reports_what_was_not_reported(
        self, registry: CollectorRegistry, clock: ManualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        misuse = Misuse(registry, TrustedProxies(), clock)
        before = asyncio.all_tasks()
        for _ in range(3):
            misuse.note(unknown(), origin())
        await misuse.close()
        assert [line.__dict__["refusals"] for line in lines(caplog)] == [1, 2]
        assert asyncio.all_tasks() == before
