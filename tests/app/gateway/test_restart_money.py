"""A call that may begin anew is charged each attempt once and never past a budget, whatever breaks and when its caller leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import count
from typing import Protocol
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from app.access.principal import Scope
from app.costs.budgets import BudgetScope, NewBudget
from app.costs.estimate import Estimator
from app.costs.holds import AdmissionRequest, Admitted, Settlement
from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.domain.attempts import Attempt, AttemptOutcome
from app.domain.errors import FailureKind, ProviderError, Refused
from app.domain.money import ZERO
from app.domain.usage import TokenUsage
from app.gateway.completions import Completion, CompletionStatus
from app.gateway.running import RunningCompletion
from app.llm.messages import ModelCall, ReasoningDelta, StreamPart, TextDelta, ToolCallDelta
from app.llm.providers.scripted import Fail, Reply, Step, text_answer
from app.llm.router import Admit, Observe, Plan, Rerouted, Routed, RoutedPart
from app.llm.routing import Restarted
from app.settings import DatabaseSettings
from tests.app.access.principals import principal
from tests.app.gateway.test_planning_and_running import QUESTION, Calls
from tests.clocks import ManualClock

CAP = QUESTION.max_output_tokens or 0
ACME = principal(Scope.COMPLETIONS)
GIVEN_INPUT = 1
"""In the figures of the provider. An estimate has more."""
_AGENTS = count()


class HurriedClock(ManualClock):
    """A sleep moves the time at once."""

    async def sleep(self, seconds: float) -> None:
        self.move(max(0.0, seconds))
        await asyncio.sleep(0)


def given_usage(output_tokens: int) -> TokenUsage:
    return TokenUsage(GIVEN_INPUT, visible_output_tokens=output_tokens, confirmed=False)


PARTS: st.SearchStrategy[StreamPart] = st.sampled_from(
    [TextDelta("one "), TextDelta("two three "), ToolCallDelta("call", '{"city": ', "look_up"), ReasoningDelta("hm, so ")]
)
USAGES = st.none() | st.builds(
    TokenUsage, st.just(GIVEN_INPUT), visible_output_tokens=st.integers(0, CAP), confirmed=st.just(False)
)
ERRORS = st.builds(ProviderError, st.sampled_from(FailureKind), usage=USAGES)
BREAKS: st.SearchStrategy[Step] = st.builds(Fail, ERRORS, first=st.lists(PARTS, max_size=4).map(tuple))
ANSWERS: st.SearchStrategy[Step] = st.integers(1, 6).map(
    lambda words: Reply(text_answer(" ".join(["well"] * words), usage=given_usage(words)))
)
SCRIPTS = st.lists(BREAKS | BREAKS | ANSWERS, min_size=1, max_size=5)


@dataclass(frozen=True)
class Case:
    """`leaves_after` is the number of parts after which the caller cancels; None: never. `limit` is in attempts' worst cases."""

    a: list[Step]
    b: list[Step]
    limit: Decimal
    restart: bool
    leaves_after: int | None


CASES = st.builds(
    Case,
    SCRIPTS,
    SCRIPTS,
    st.decimals(Decimal("0.2"), Decimal(8), places=1),
    restart=st.sampled_from([True, True, False]),
    leaves_after=st.none() | st.integers(0, 8),
)


class RouteStream(Protocol):
    def __call__(
        self, plan: Plan, call: ModelCall, admit: Admit, observe: Observe, *, tenant: str
    ) -> AsyncGenerator[RoutedPart, None]: ...


class Cancelled(Exception):
    pass


@dataclass
class Seen:
    """What a watcher would have been shown: `text` since the last restart."""

    running: RunningCompletion
    route: RouteStream
    text: str = ""
    restarts: int = 0
    parts: int = 0
    said: list[str] = field(default_factory=list)
    said_by: dict[UUID, str] = field(default_factory=dict)
    """What each attempt has shown of its answer, of whatever kind."""

    async def stream(self, leaves_after: int | None) -> Completion:
        """As the event log does it. Raises Refused, and Cancelled."""
        running, call = self.running, self.running.call
        parts = self.route(call.plan, call.template, running.admit_attempt, self.observe, tenant=call.payer.tenant)
        async with aclosing(parts):
            async for part in parts:
                if isinstance(part, Routed):
                    return running.finished(part)
                if isinstance(part, Restarted):
                    charged = running.restarted(part.attempt)
                    assert charged in running.attempts
                    self.text, self.restarts = "", self.restarts + 1
                elif not isinstance(part, Rerouted):
                    running.streamed(part)
                    self.said += (part.name or "", part.arguments_delta) if isinstance(part, ToolCallDelta) else (part.text,)
                    self.text += part.text if isinstance(part, TextDelta) else ""
                self.parts += 1
                if self.parts == leaves_after:
                    break
        raise Cancelled

    def observe(self, attempt: Attempt) -> None:
        self.running.observe(attempt)
        self.said_by[attempt.key] = "".join(self.said)
        self.said.clear()

    def check_estimates(self) -> None:
        """An attempt whose provider gave no figures is charged for what it has shown itself."""
        for attempt in self.running.attempts:
            said = self.said_by[attempt.key]
            if attempt.usage is None:
                assert said == ""
            elif attempt.usage.uncached_input_tokens != GIVEN_INPUT:
                assert said or attempt.outcome is AttemptOutcome.CANCELLED
                made = self.running.call.estimator.count_now((said,))
                assert attempt.usage.visible_output_tokens == min(CAP, made)


class World:
    def __init__(self, sessions: Sessions, estimator: Estimator) -> None:
        self._sessions = sessions
        self._estimator = estimator

    async def check(self, case: Case) -> None:
        calls = Calls(self._sessions, self._estimator, None, HurriedClock(), a=case.a, b=case.b)
        agent = f"agent-{next(_AGENTS)}"
        request = replace(QUESTION, agent=agent, restart=case.restart, stream_reasoning=True)
        call = await calls.planner.plan(request, ACME, streamed=True)
        most_expensive = [call.estimate(target) for target in call.plan.targets][-1]
        assert most_expensive.input_usd is not None
        assert most_expensive.output_token_usd is not None
        limit = case.limit * (most_expensive.input_usd + CAP * most_expensive.output_token_usd)
        new = NewBudget(agent, BudgetScope(tenant="acme", agent=agent), limit.quantize(Decimal("1e-9")))
        budget = await calls.budgets.create(new)
        try:
            estimate = call.estimate(call.plan.targets[0])
            admitted = await calls.ledger.admit(AdmissionRequest(call.key, call.operation, call.payer, estimate))
        except Refused:
            assert case.limit < 1
        else:
            assert isinstance(admitted, Admitted)
            await self._run(calls, RunningCompletion(call, admitted, calls.ledger, calls.bench.clock), case)
            found = (await calls.budgets.by_keys([budget.key], None, primary=True))[budget.key]
            async with self._sessions.read(primary=True) as session:
                rows = (await session.execute(_CHARGED, {"call": call.key})).all()
            charged = sum((row.cost_usd for row in rows), ZERO)
            assert (found.held_usd, found.spent_usd) == (ZERO, charged)
            assert found.spent_usd <= found.limit_usd
            assert self.ended.cost_usd == charged
            assert sorted(row.key for row in rows) == sorted(attempt.key for attempt in self.billed)
        finally:
            await calls.ledger.close()

    async def _run(self, calls: Calls, running: RunningCompletion, case: Case) -> None:
        seen = Seen(running, calls.bench.fleet.router.route_stream)
        try:
            ended = await seen.stream(case.leaves_after)
            assert seen.text == ended.text
        except Cancelled:
            ended = running.cancelled()
            assert (ended.text or "") == seen.text
        except Refused as refused:
            ended = running.failed(refused.reason)
            assert ended.status is CompletionStatus.FAILED
            assert (ended.text or "") == seen.text
        assert case.restart or not seen.restarts
        assert seen.restarts <= max(0, len(running.attempts) - 1)
        seen.check_estimates()
        call = running.call
        await calls.ledger.settle(
            Settlement(call.key, call.operation, call.payer, running.billed_attempts, ended.status.value, None, call.started_at)
        )
        self.ended, self.billed = ended, running.billed_attempts


_CHARGED = text("select key, coalesce(cost_usd, 0) as cost_usd from usage_records where completion = :call")


@pytest.mark.timeout(240)
def test_each_attempt_is_charged_once_and_no_budget_is_passed(database_url: str) -> None:
    with asyncio.Runner() as runner:
        engines = build_engines(database_url, [], DatabaseSettings())
        world = World(Sessions(engines), Estimator())

        @settings(max_examples=80, deadline=None)
        @given(CASES)
        def check(case: Case) -> None:
            runner.run(world.check(case))

        check()
        runner.run(engines.close())
