from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import FailureKind, ProviderError, Refused
from app.domain.usage import TokenUsage
from app.llm.resilience.limiter import Limiter, LimiterKind, LocalBuckets, Rates, Reservation, rates_of
from app.llm.routing import RateLimited
from app.settings import ProviderKindName, ProviderLimits, ProviderSettings
from tests.app.llm.fleets import problem
from tests.clocks import ManualClock, settle

pytestmark = pytest.mark.anyio

FAR = 1e9
ONE_A_SECOND = Rates(60, 6_000)


class Bench:
    """A limiter of 60 requests and 6,000 tokens a minute: one request and 100 tokens a second."""

    def __init__(self, rates: Rates = ONE_A_SECOND, limits: ProviderLimits | None = None) -> None:
        self.clock = ManualClock()
        self.buckets = LocalBuckets(rates, self.clock)
        self.limiter = Limiter("a", limits or ProviderLimits(), self.buckets, self.clock, cached_is_free=False)
        self.served: list[tuple[str, float]] = []

    async def reserve(self, tenant: str, tokens: int) -> Reservation:
        hold = await self.limiter.acquire(tenant, tokens, FAR)
        self.served.append((tenant, self.clock.monotonic()))
        return hold

    def ask(self, tenant: str, tokens: int, times: int = 1) -> list[asyncio.Task[Reservation]]:
        return [asyncio.create_task(self.reserve(tenant, tokens)) for _ in range(times)]

    def available(self, kind: LimiterKind) -> float:
        return next(state.available for state in self.limiter.states if state.kind is kind)

    @property
    def waiting(self) -> int:
        return self.limiter.states[0].waiting


class TestReserving:
    async def test_a_full_bucket_serves_at_once_and_settles_by_what_was_used(self) -> None:
        bench = Bench()
        async with bench.limiter.reserve("acme", 4_000, FAR) as hold:
            assert bench.available(LimiterKind.TOKENS) == 2_000
            hold.settle(TokenUsage(uncached_input_tokens=100, visible_output_tokens=50))
        assert bench.available(LimiterKind.TOKENS) == 5_850
        assert bench.available(LimiterKind.REQUESTS) == 59

    async def test_a_failed_call_gives_its_tokens_back_and_a_cancelled_one_does_not(self) -> None:
        bench = Bench()
        with pytest.raises(ProviderError):
            async with bench.limiter.reserve("acme", 4_000, FAR):
                raise ProviderError(FailureKind.SERVER_ERROR)
        assert bench.available(LimiterKind.TOKENS) == 6_000
        with pytest.raises(asyncio.CancelledError):
            async with bench.limiter.reserve("acme", 4_000, FAR):
                raise asyncio.CancelledError
        assert bench.available(LimiterKind.TOKENS) == 2_000

    async def test_what_was_never_sent_gives_the_request_back_too(self) -> None:
        bench = Bench()
        hold = await bench.reserve("acme", 1_000)
        hold.release()
        hold.release()
        assert bench.available(LimiterKind.REQUESTS) == 60

    async def test_more_than_the_bucket_holds_is_asked_for_as_all_it_holds(self) -> None:
        bench = Bench()
        hold = await bench.reserve("acme", 1_000_000)
        assert bench.available(LimiterKind.TOKENS) == 0
        hold.settle(TokenUsage(visible_output_tokens=7_000))
        bench.clock.move(10)
        assert bench.available(LimiterKind.TOKENS) == 0
        assert bench.limiter.seconds_until(100) == pytest.approx(1)

    async def test_cached_input_is_free_where_the_provider_says_so(self) -> None:
        clock = ManualClock()
        limiter = Limiter("a", ProviderLimits(), LocalBuckets(Rates(None, 6_000), clock), clock, cached_is_free=True)
        async with limiter.reserve("acme", 3_000, FAR) as hold:
            hold.settle(TokenUsage(uncached_input_tokens=100, cached_input_tokens=2_000))
        assert limiter.states[0].available == 5_900

    async def test_no_limit_is_no_wait(self) -> None:
        bench = Bench(Rates(None, None))
        for _ in range(1_000):
            await bench.reserve("acme", 1_000_000)
        assert bench.limiter.states == []


class TestWaiting:
    async def test_who_finds_no_room_waits_for_the_refill(self) -> None:
        bench = Bench()
        await bench.reserve("acme", 6_000)
        start = bench.clock.monotonic()
        [task] = bench.ask("acme", 500)
        await bench.clock.advance(4.9)
        assert not task.done()
        assert bench.waiting == 1
        await bench.clock.advance(0.2)
        await task
        assert bench.served[-1][1] - start == pytest.approx(5, abs=0.05)
        assert bench.waiting == 0

    async def test_what_is_given_back_serves_who_waits(self) -> None:
        bench = Bench()
        hold = await bench.reserve("acme", 6_000)
        [task] = bench.ask("acme", 3_000)
        await settle()
        hold.settle(TokenUsage(visible_output_tokens=10))
        await settle()
        assert task.done()

    async def test_the_queues_timeout_ends_in_rate_limited_with_a_time_to_come_back(self) -> None:
        bench = Bench(limits=ProviderLimits(queue_timeout=timedelta(seconds=3)))
        await bench.reserve("acme", 6_000)
        [task] = bench.ask("acme", 6_000)
        await bench.clock.advance(3.1)
        with pytest.raises(Refused) as caught:
            await task
        refused = problem(caught.value, RateLimited)
        assert refused.scope == "a"
        assert 50_000 < refused.retry_after_ms < 60_000
        assert bench.waiting == 0

    async def test_the_deadline_of_the_call_ends_the_wait_too(self) -> None:
        bench = Bench()
        await bench.reserve("acme", 6_000)
        task = asyncio.create_task(bench.limiter.acquire("acme", 6_000, bench.clock.monotonic() + 2))
        await bench.clock.advance(2.1)
        with pytest.raises(Refused):
            await task

    async def test_the_queue_is_bounded(self) -> None:
        bench = Bench(limits=ProviderLimits(max_waiting=10))
        await bench.reserve("acme", 6_000)
        tasks = bench.ask("acme", 100, 11)
        await settle()
        assert [task.done() for task in tasks] == [False] * 10 + [True]
        assert isinstance(tasks[-1].exception(), Refused)
        await bench.clock.advance(20)
        assert len(await asyncio.gather(*tasks[:10])) == 10

    async def test_one_that_leaves_lets_the_next_one_through(self) -> None:
        bench = Bench()
        await bench.reserve("acme", 6_000)
        [large] = bench.ask("acme", 6_000)
        [small] = bench.ask("acme", 100)
        await bench.clock.advance(2)
        assert not small.done()
        large.cancel()
        await settle()
        assert small.done()
        assert bench.available(LimiterKind.TOKENS) == pytest.approx(100)

    async def test_none_waits_for_ever_where_the_buckets_break(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bench = Bench()
        await bench.reserve("acme", 6_000)

        async def broken(*_: float) -> float:
            raise ValueError

        monkeypatch.setattr(bench.buckets, "fetch", broken)
        async with asyncio.timeout(5):
            results = await asyncio.gather(*bench.ask("acme", 100, times=2), return_exceptions=True)
        assert [type(result) for result in results] == [ValueError, ValueError]
        assert bench.waiting == 0

    async def test_nothing_is_left_behind_when_it_closes(self) -> None:
        before = asyncio.all_tasks()
        bench = Bench()
        await bench.reserve("acme", 6_000)
        [task] = bench.ask("acme", 6_000)
        await settle()
        await bench.limiter.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await settle()
        assert asyncio.all_tasks() == before


class TestFairness:
    async def test_a_thousand_of_one_tenant_do_not_starve_one_of_another(self) -> None:
        bench = Bench(Rates(None, 60_000), ProviderLimits(queue_timeout=timedelta(hours=1)))
        await bench.reserve("big", 60_000)
        many = bench.ask("big", 1_000, 1_000)
        await bench.clock.advance(5)
        [one] = bench.ask("small", 1_000)
        await bench.clock.advance(3)
        assert one.done()
        assert sum(task.done() for task in many) <= 8
        for task in many:
            task.cancel()
        await asyncio.gather(*many, return_exceptions=True)
        await bench.limiter.close()

    async def test_tenants_get_equal_tokens_whatever_the_size_of_their_calls(self) -> None:
        bench = Bench(Rates(None, 60_000), ProviderLimits(queue_timeout=timedelta(hours=1)))
        await bench.reserve("x", 60_000)
        tasks = [*bench.ask("large", 5_000, 40), *bench.ask("little", 500, 400)]
        await bench.clock.advance(60)
        tokens = Counter(tenant for tenant, _ in bench.served)
        assert tokens["large"] * 5_000 == pytest.approx(tokens["little"] * 500, abs=10_000)
        assert tokens["large"] * 5_000 + tokens["little"] * 500 == pytest.approx(60_000, abs=6_000)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await bench.limiter.close()


class TestThroughput:
    @given(sizes=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9_000)), min_size=1, max_size=40))
    def test_no_more_is_ever_granted_than_the_bucket_and_its_refill(self, sizes: list[tuple[str, int]]) -> None:
        async def scenario() -> None:
            bench = Bench(limits=ProviderLimits(queue_timeout=timedelta(days=1)))
            start = bench.clock.monotonic()
            granted: list[tuple[float, int]] = []

            async def one(tenant: str, tokens: int) -> None:
                await bench.limiter.acquire(tenant, tokens, FAR)
                granted.append((bench.clock.monotonic() - start, min(tokens, 6_000)))

            tasks = [asyncio.create_task(one(*size)) for size in sizes]
            await bench.clock.advance(60 * 62)
            await asyncio.gather(*tasks)
            sums = 0
            for count, (at, tokens) in enumerate(sorted(granted), 1):
                sums += tokens
                assert sums <= 6_000 + 100 * at + 1
                assert count <= 60 + at + 0.01
            await bench.limiter.close()

        asyncio.run(scenario())


class TestRates:
    @pytest.mark.parametrize(
        ("kind", "rates"),
        [
            (ProviderKindName.ANTHROPIC, Rates(1_000, 100_000)),
            (ProviderKindName.OPENAI, Rates(10_000, 2_000_000)),
            (ProviderKindName.OPENAI_COMPATIBLE, Rates(None, None)),
        ],
    )
    def test_each_kind_has_its_usual_ones(self, kind: ProviderKindName, rates: Rates) -> None:
        assert rates_of(ProviderSettings(name="a", kind=kind)) == rates

    def test_the_configuration_comes_first(self) -> None:
        limits = ProviderLimits(requests_per_minute=7)
        assert rates_of(ProviderSettings(name="a", kind=ProviderKindName.ANTHROPIC, limits=limits)) == Rates(7, 100_000)
        assert rates_of(ProviderSettings(name="a", kind=ProviderKindName.OPENAI, simulated=True, limits=limits)).requests == 7
