"""A provider that works long on a whole answer shows nothing meanwhile, as a silent one does. Time is a tenth of what users have
by default: it works 10 s instead of 100 s on an answer of up to 4,096 tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.access.principal import Scope
from app.costs.estimate import Estimator
from app.costs.prices import PriceBook
from app.costs.queries import CostFilter
from app.domain.attempts import AttemptOutcome
from app.domain.paging import PageRequest
from app.gateway.completions import Completion
from app.llm.providers.answer_timeouts import whole_answer_timeout
from app.llm.resilience.breaker import BreakerStatus
from app.llm.routing import parse_target
from app.runtime.clock import SystemClock
from app.services import Services, build_services
from app.settings import ProviderTimeouts
from tests.app.access.principals import principal
from tests.services import ANTHROPIC, OPENAI, Stores, asked
from tests.simulators import RunningSimulator, start_simulator

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

CALLER = principal(Scope.COMPLETIONS)
DEFAULTS = ProviderTimeouts()
TENTH = ProviderTimeouts(
    connect=DEFAULTS.connect, first_token=DEFAULTS.first_token / 10, idle=DEFAULTS.idle / 10, total=DEFAULTS.total / 10
)
WORKS_SECONDS = 10.0
EVER = CostFilter(datetime(2026, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC), (CALLER.tenant,))


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    with start_simulator() as running:
        running.post(
            {
                "operation": "completion",
                "model": ANTHROPIC.partition("/")[2],
                "headers_delay_ms": WORKS_SECONDS * 1000,
                "count": None,
            }
        )
        yield running


async def ask(services: Services, model: str, seconds: float | None = None) -> Completion:
    return await services.gateway.complete(asked(f"{model} {seconds}", model=model, cap=4096, timeout=seconds), CALLER)


async def test_are_neither_cut_nor_paid_twice_unless_the_call_has_too_little_time_for_both_targets(
    database_url: str, valkey_url: str, tmp_path: Path, simulator: RunningSimulator
) -> None:
    settings = Stores.emptied(database_url, valkey_url, tmp_path).settings(simulator, timeouts=TENTH)
    async with build_services(settings, SystemClock(), Estimator(), PriceBook(settings)) as services:
        with_another, alone, in_haste = await asyncio.gather(
            ask(services, "default"), ask(services, ANTHROPIC), ask(services, "default", seconds=2 * WORKS_SECONDS - 4)
        )
        target = parse_target(ANTHROPIC)
        assert target is not None
        guarded = services.fleet.find(target)
        assert guarded is not None
        assert (guarded.breaker.state.status, guarded.breaker.state.consecutive_failures) == (BreakerStatus.CLOSED, 0)
        page = await services.reports.records(EVER, PageRequest(100, None))
    for completion in (with_another, alone):
        [attempt] = completion.attempts
        assert (completion.model, attempt.outcome) == (ANTHROPIC.partition("/")[2], AttemptOutcome.SUCCEEDED)
    assert [attempt.outcome for attempt in in_haste.attempts] == [AttemptOutcome.TIMED_OUT, AttemptOutcome.SUCCEEDED]
    assert in_haste.model == OPENAI.partition("/")[2]
    made = {attempt.key for completion in (with_another, alone, in_haste) for attempt in completion.attempts}
    assert {record.key for record in page.nodes} == made


async def test_that_never_come_leave_time_for_another_target_also_with_a_large_cap(
    database_url: str, valkey_url: str, tmp_path: Path
) -> None:
    """After 11 s for 4,096 tokens, and never after more than half of the time that the call has: 4 s of 8."""
    with start_simulator() as simulator:
        simulator.post({"operation": "completion", "model": ANTHROPIC.partition("/")[2], "fault": "silent", "count": None})
        settings = Stores.emptied(database_url, valkey_url, tmp_path).settings(simulator, timeouts=TENTH)
        async with build_services(settings, SystemClock(), Estimator(), PriceBook(settings)) as services:
            unhurried, in_haste = await asyncio.gather(ask(services, "default"), ask(services, "default", seconds=8))
    patience = whole_answer_timeout(TENTH, 4096).total_seconds()
    for completion, most in ((unhurried, patience), (in_haste, 4.0)):
        silent, answered = completion.attempts
        assert (silent.outcome, answered.outcome) == (AttemptOutcome.TIMED_OUT, AttemptOutcome.SUCCEEDED)
        assert most - 0.5 <= silent.latency_ms / 1000 <= most + 2
        assert completion.model == OPENAI.partition("/")[2]
