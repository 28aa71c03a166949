from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from app.domain.errors import Refused
from app.domain.usage import RateLimitReport
from app.llm.resilience.allowance import ModelAllowance
from app.llm.resilience.limiter import Rates
from app.llm.routing import RateLimited, Target
from tests.app.llm.fleets import problem
from tests.clocks import ManualClock, settle

pytestmark = pytest.mark.anyio
FAR = 1e9
RATES = Rates(60, 6_000)


def allowance(clock: ManualClock, rates: Rates = RATES) -> ModelAllowance:
    return ModelAllowance(Target("a", "m"), rates, timedelta(seconds=30), clock)


class TestAModelsAllowance:
    async def test_is_no_limit_until_a_header_says_one(self) -> None:
        made = allowance(ManualClock())
        for _ in range(1000):
            await made.take(6_000, FAR)
        assert made.states() == []

    async def test_holds_calls_back_until_there_is_room(self) -> None:
        clock = ManualClock()
        made = allowance(clock)
        made.apply(RateLimitReport(tokens_remaining=0))
        assert made.seconds_until(100) == pytest.approx(1)
        waiting = asyncio.create_task(made.take(100, FAR))
        await settle()
        assert not waiting.done()
        await clock.advance(1.1)
        await waiting

    async def test_refuses_what_would_wait_too_long(self) -> None:
        made = allowance(ManualClock())
        made.apply(RateLimitReport(requests_remaining=0, tokens_remaining=0))
        with pytest.raises(Refused) as caught:
            await made.take(6_000, FAR)
        refused = problem(caught.value, RateLimited)
        assert (refused.scope, refused.retry_after) == ("a/m", timedelta(seconds=60))

    async def test_is_what_the_newest_header_says(self) -> None:
        made = allowance(ManualClock())
        made.apply(RateLimitReport(tokens_remaining=0))
        made.apply(RateLimitReport(tokens_remaining=100_000))
        assert made.seconds_until(6_000) == 0

    async def test_says_nothing_where_the_provider_has_no_rate(self) -> None:
        made = allowance(ManualClock(), Rates(None, None))
        made.apply(RateLimitReport(requests_remaining=0, tokens_remaining=0))
        assert made.seconds_until(6_000) == 0
