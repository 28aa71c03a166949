"""A primary that goes down and comes back: left soon, asked again by one probe at a time, and used again soon after it recovered.
Whole answers and streams alike. `FLAPPING_PACE=20` has it down for a minute, with a breaker open for 20 s at a time; by default
all of it takes a twentieth of that."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import aclosing
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from app.access.principal import Scope
from app.costs.estimate import Estimator
from app.costs.prices import PriceBook
from app.domain.attempts import AttemptOutcome
from app.gateway.completions import Completion, CompletionRequest
from app.gateway.streams.events import CompletionFinished
from app.runtime.clock import SystemClock
from app.services import Services, build_services
from app.settings import BreakerSettings, RetrySettings
from tests.app.access.principals import principal
from tests.services import ANTHROPIC, OPENAI, Stores, asked
from tests.simulators import RunningSimulator, start_simulator

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

CALLER = principal(Scope.COMPLETIONS)
PACE = float(os.environ.get("FLAPPING_PACE", "1"))
DOWN_SECONDS = 3.0 * PACE
OPEN_SECONDS = 1.0 * PACE
BACK_SECONDS = 1.5 * PACE
UP_SECONDS = 2.5 * PACE


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    with start_simulator() as running:
        yield running


async def ask(services: Services, request: CompletionRequest, *, streamed: bool) -> Completion:
    if not streamed:
        return await services.gateway.complete(request, CALLER)
    async with aclosing(services.gateway.stream(request, CALLER)) as events:
        *_, last = [event async for event in events]
    assert isinstance(last, CompletionFinished)
    return last.completion


def failures_until_left(completions: list[Completion], model: str) -> list[int]:
    """For each call until the breaker first refuses one, how often it was tried at the model in vain."""
    failures = []
    for completion in completions:
        outcomes = [attempt.outcome for attempt in completion.attempts if attempt.model == model]
        if failed := outcomes.count(AttemptOutcome.FAILED):
            failures.append(failed)
        if AttemptOutcome.SKIPPED_OPEN_CIRCUIT in outcomes:
            return failures
    raise AssertionError("The target was never left.")


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("route", ["default", "reverse"])
async def test_a_flapping_primary_is_left_and_used_again(
    route: str, database_url: str, valkey_url: str, tmp_path: Path, simulator: RunningSimulator, *, streamed: bool
) -> None:
    model = (ANTHROPIC if route == "default" else OPENAI).partition("/")[2]
    settings = Stores.emptied(database_url, valkey_url, tmp_path).settings(
        simulator,
        breaker=BreakerSettings(probe_after=timedelta(seconds=OPEN_SECONDS)),
        retry=RetrySettings(first_delay=timedelta(seconds=0.05), max_delay=timedelta(seconds=0.4)),
    )
    answers: list[tuple[float, Completion]] = []
    async with build_services(settings, SystemClock(), Estimator(), PriceBook(settings)) as services:
        for warmed_up in ("default", "reverse"):
            await ask(services, asked("Say hello.", model=warmed_up), streamed=streamed)
        simulator.post(
            {
                "fault": "status",
                "status": 503,
                "operation": "completion",
                "model": model,
                "count": None,
                "lasts_ms": DOWN_SECONDS * 1000,
            }
        )
        begun = time.monotonic()
        while (at := time.monotonic() - begun) < DOWN_SECONDS + UP_SECONDS:
            answers.append((at, await ask(services, asked(f"At {at}", model=route), streamed=streamed)))
            await asyncio.sleep(0.04)
    entries = [
        entry for entry in await asyncio.to_thread(simulator.log) if entry.model == model and entry.operation == "completion"
    ]
    failed = [entry for entry in entries if entry.status == 503]
    before_open = failures_until_left([answer for _, answer in answers], model)
    assert len(before_open) <= 5
    assert max(before_open) <= 2
    probes = failed[sum(before_open) :]
    assert 1 <= len(probes) <= DOWN_SECONDS / OPEN_SECONDS
    assert all((later.at - earlier.at).total_seconds() >= OPEN_SECONDS * 0.9 for earlier, later in pairwise(probes))
    down = [answer for at, answer in answers if 0.5 < at < DOWN_SECONDS - 0.1]
    assert down
    assert all(answer.model != model for answer in down)
    first_back = next(at for at, answer in answers if at > 0.5 and answer.model == model)
    assert DOWN_SECONDS - 0.1 <= first_back <= DOWN_SECONDS + BACK_SECONDS, "asked just before the end, it is tried after it"
    assert all(answer.model == model for at, answer in answers if at > first_back + 0.5)
