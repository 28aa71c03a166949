from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from app.cache.decorators import cached, cached_with_invalidation
from app.cache.invalidations import Selector, SelectorKind
from app.cache.reads import MAX_REFRESHES, ReadCache, ReadKey, read_key
from tests.clocks import ManualClock, settle

pytestmark = pytest.mark.anyio

TTL, EARLY = timedelta(seconds=60), timedelta(seconds=45)
ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class Sum:
    as_of: datetime
    usd: Decimal
    parts: tuple[Decimal | None, ...] = ()


def sum_key(tenant: str | None, *, agent: str = "") -> ReadKey:
    return read_key("sum", None if tenant is None else (tenant,), (tenant, agent))


@dataclass
class Sums:
    """Counts its reads. Each waits for `gate`, if there is one."""

    clock: ManualClock
    kept_reads: ReadCache | None
    reads: list[str | None] = field(default_factory=list)
    gate: asyncio.Event | None = None
    fails: bool = False

    @cached(ttl=TTL, key=sum_key, tags=("sums",), early=EARLY)
    async def read(self, tenant: str | None, *, agent: str = "") -> Sum:
        return await self._read(tenant)

    @cached_with_invalidation(ttl=TTL, key=sum_key, events=frozenset({"alert"}))
    async def read_again(self, tenant: str | None, *, agent: str = "") -> Sum | None:
        return await self._read(tenant)

    async def _read(self, tenant: str | None) -> Sum:
        self.reads.append(tenant)
        found = Sum(self.clock.now(), Decimal("0.10") + len(self.reads), (None, Decimal(1)))
        if self.gate is not None:
            await self.gate.wait()
        if self.fails:
            raise LookupError("no sum")
        return found


class Known:
    """Whether all invalidations are known."""

    def __init__(self) -> None:
        self.is_known = True

    def __call__(self) -> bool:
        return self.is_known


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def known() -> Known:
    return Known()


@pytest.fixture
def kept(clock: ManualClock, known: Known) -> ReadCache:
    return ReadCache(clock, 100_000, is_known=known)


@pytest.fixture
def sums(clock: ManualClock, kept: ReadCache) -> Sums:
    return Sums(clock, kept)


class TestAKeptResult:
    async def test_is_given_as_it_was_until_its_time_is_over(self, sums: Sums, clock: ManualClock) -> None:
        first = await sums.read("acme")
        clock.move(44)
        assert await sums.read("acme") == first
        assert await sums.read("acme") is not first
        clock.move(16)
        assert (await sums.read("acme")).as_of == first.as_of + TTL
        assert sums.reads == ["acme", "acme"]

    async def test_has_its_age_from_the_begin_of_its_read(self, sums: Sums, clock: ManualClock) -> None:
        sums.gate = asyncio.Event()
        reading = asyncio.create_task(sums.read("acme"))
        await settle()
        clock.move(59)
        sums.gate.set()
        await reading
        clock.move(1)
        assert (await sums.read("acme")).as_of == clock.now()

    async def test_is_for_equal_arguments_only(self, sums: Sums) -> None:
        keys = [("acme", ""), ("other", ""), (None, ""), ("acme", "writer")]
        first = [await sums.read(tenant, agent=agent) for tenant, agent in keys]
        assert [await sums.read(tenant, agent=agent) for tenant, agent in keys] == first
        assert len({each.usd for each in first}) == len(sums.reads) == 4

    async def test_of_nothing_is_kept_too(self, clock: ManualClock, kept: ReadCache) -> None:
        class Nothing(Sums):
            async def _read(self, tenant: str | None) -> None:  # type: ignore[override]  # a read that finds nothing
                self.reads.append(tenant)

        nothing = Nothing(clock, kept)
        assert [await nothing.read_again("acme") for _ in range(2)] == [None, None]
        assert nothing.reads == ["acme"]

    async def test_is_not_kept_by_an_object_without_a_cache(self, clock: ManualClock) -> None:
        sums = Sums(clock, None)
        assert (await sums.read("acme")).usd < (await sums.read("acme")).usd

    async def test_of_an_error_is_not_kept(self, sums: Sums) -> None:
        sums.fails = True
        for _ in range(2):
            with pytest.raises(LookupError):
                await sums.read("acme")
        sums.fails = False
        assert (await sums.read("acme")).usd == Decimal("3.10")

    async def test_makes_room_for_newer_ones(self, sums: Sums, kept: ReadCache) -> None:
        for number in range(1000):
            await sums.read(f"tenant-{number}")
            await sums.read("hot")
            assert kept.size_bytes <= 100_000
        assert 100 < len(kept) < 170
        assert sums.reads.count("hot") == 1

    async def test_that_is_larger_than_all_is_not_kept(self, clock: ManualClock) -> None:
        kept = ReadCache(clock, 100, is_known=lambda: True)
        sums = Sums(clock, kept)
        await sums.read("acme")
        assert (len(kept), kept.size_bytes) == (0, 0)


class TestOneRead:
    async def test_serves_all_who_ask_at_once(self, sums: Sums) -> None:
        sums.gate = asyncio.Event()
        asking = [asyncio.create_task(sums.read("acme")) for _ in range(100)]
        await settle()
        asking[0].cancel()
        sums.gate.set()
        answers = await asyncio.gather(*asking[1:])
        assert (len(set(answers)), sums.reads) == (1, ["acme"])

    async def test_that_fails_fails_for_all(self, sums: Sums) -> None:
        sums.gate, sums.fails = asyncio.Event(), True
        asking = [asyncio.create_task(sums.read("acme")) for _ in range(3)]
        await settle()
        sums.gate.set()
        assert {type(each) for each in await asyncio.gather(*asking, return_exceptions=True)} == {LookupError}
        assert sums.reads == ["acme"]

    async def test_ends_with_its_process(self, sums: Sums, kept: ReadCache) -> None:
        sums.gate = asyncio.Event()
        asking = asyncio.create_task(sums.read("acme"))
        await settle()
        await kept.close()
        with pytest.raises(asyncio.CancelledError):
            await asking


class TestAHotResult:
    async def test_is_given_while_it_is_read_again(self, sums: Sums, clock: ManualClock) -> None:
        first = await sums.read("acme")
        clock.move(45)
        sums.gate = asyncio.Event()
        assert [await sums.read("acme") for _ in range(10)] == [first] * 10
        await settle()
        assert sums.reads == ["acme", "acme"]
        sums.gate.set()
        await settle()
        clock.move(44)
        assert (await sums.read("acme")).as_of == first.as_of + EARLY

    async def test_is_given_on_if_it_cannot_be_read(
        self, sums: Sums, clock: ManualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = await sums.read("acme")
        sums.fails = True
        clock.move(50)
        for _ in range(3):
            assert await sums.read("acme") == first
            await settle()
        assert "could not be refreshed" in caplog.text
        clock.move(10)
        with pytest.raises(LookupError):
            await sums.read("acme")

    async def test_is_one_of_few_that_are_read_at_once(self, sums: Sums, clock: ManualClock) -> None:
        tenants = [f"tenant-{number}" for number in range(3 * MAX_REFRESHES)]
        for tenant in tenants:
            await sums.read(tenant)
        clock.move(50)
        sums.gate = asyncio.Event()
        for tenant in tenants:
            await sums.read(tenant)
        await settle()
        assert len(sums.reads) == len(tenants) + MAX_REFRESHES
        sums.gate.set()
        await settle()
        await sums.read(tenants[-1])
        await settle()
        assert len(sums.reads) == len(tenants) + MAX_REFRESHES + 1

    async def test_is_never_read_again_if_none_asks(self, sums: Sums, clock: ManualClock) -> None:
        await sums.read("acme")
        await clock.advance(600)
        assert sums.reads == ["acme"]


class TestAnInvalidation:
    @pytest.mark.parametrize(
        "selector",
        [
            Selector(SelectorKind.EVERYTHING),
            Selector(SelectorKind.TAG, ("other", "sums")),
            Selector(SelectorKind.PATTERN, ("sum/*",)),
            Selector(SelectorKind.NAME, (sum_key("acme").name,)),
        ],
    )
    async def test_drops_what_it_selects_of_its_tenant(self, sums: Sums, kept: ReadCache, selector: Selector) -> None:
        for tenant in ("acme", "other"):
            await sums.read(tenant)
        kept.invalidate("acme", selector)
        for tenant in ("acme", "other"):
            await sums.read(tenant)
        assert sums.reads == ["acme", "other", "acme"]

    @pytest.mark.parametrize(
        "selector", [Selector(SelectorKind.TAG, ("news",)), Selector(SelectorKind.PATTERN, ("completion/*",))]
    )
    async def test_leaves_what_it_does_not_select(self, sums: Sums, kept: ReadCache, selector: Selector) -> None:
        await sums.read("acme")
        kept.invalidate("acme", selector)
        await sums.read("acme")
        assert sums.reads == ["acme"]

    async def test_drops_a_result_over_all_tenants(self, sums: Sums, kept: ReadCache) -> None:
        await sums.read(None)
        kept.invalidate("acme", Selector(SelectorKind.EVERYTHING))
        await sums.read(None)
        assert sums.reads == [None, None]

    async def test_while_a_read_runs_leaves_nothing_of_it(self, sums: Sums, kept: ReadCache) -> None:
        sums.gate = asyncio.Event()
        before = asyncio.create_task(sums.read("acme"))
        await settle()
        kept.invalidate("acme", Selector(SelectorKind.EVERYTHING))
        after = asyncio.create_task(sums.read("acme"))
        await settle()
        sums.gate.set()
        assert (await before).usd < (await after).usd
        assert await sums.read("acme") == await after
        assert sums.reads == ["acme", "acme"]

    async def test_that_may_be_unknown_keeps_everything_from_being_given(self, sums: Sums, known: Known) -> None:
        await sums.read("acme")
        known.is_known = False
        await sums.read("acme")
        await sums.read("acme")
        known.is_known = True
        await sums.read("acme")
        assert sums.reads == ["acme"] * 3


class TestAnEvent:
    async def test_drops_results_that_name_its_kind_of_its_tenant(self, sums: Sums, kept: ReadCache) -> None:
        async def read() -> None:
            for tenant in ("acme", "other", None):
                await sums.read_again(tenant)

        await read()
        kept.happened("alert", "acme")
        await read()
        assert sums.reads[3:] == ["acme", None]
        kept.happened("another", None)
        await read()
        assert len(sums.reads) == 5
        kept.happened("alert", None)
        await read()
        assert len(sums.reads) == 8

    async def test_drops_no_other_results(self, sums: Sums, kept: ReadCache) -> None:
        await sums.read("acme")
        kept.happened("alert", None)
        await sums.read("acme")
        assert sums.reads == ["acme"]


CALLS = """
from datetime import timedelta
from app.cache.decorators import cached
from app.cache.reads import ReadCache, ReadKey

def key(tenant: str, first: int = 1) -> ReadKey: ...
def other_key(number: int) -> ReadKey: ...

class Held:
    kept_reads: ReadCache | None = None

    @cached(ttl=timedelta(1), key=key)
    async def read(self, tenant: str, first: int = 1) -> list[int]: ...

class WithoutCache:
    @cached(ttl=timedelta(1), key=key)  # WRONG
    async def read(self, tenant: str, first: int = 1) -> list[int]: ...

class WithAnotherKey:
    kept_reads: ReadCache | None = None

    @cached(ttl=timedelta(1), key=other_key)  # WRONG
    async def read(self, tenant: str) -> list[int]: ...

async def call(held: Held) -> None:
    right: list[int] = await held.read("acme", first=2)
    await held.read(7)  # WRONG
    await held.read("acme", last=2)  # WRONG
    await held.read()  # WRONG
    wrong: list[str] = await held.read("acme")  # WRONG
"""


def test_a_wrong_argument_is_a_type_error(tmp_path: Path) -> None:
    file = tmp_path / "calls.py"
    file.write_text(CALLS, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--disable-error-code=empty-body", str(file)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    wrong = {int(line.split(":")[1]) for line in found.stdout.splitlines() if ": error:" in line}
    assert wrong == {number for number, line in enumerate(CALLS.splitlines(), 1) if "# WRONG" in line}, found.stdout
