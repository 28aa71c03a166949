"""Right means: the whole answer or a clear typed failure in bounded time; never a truncated answer as finished; few attempts; and
the failed target is never reported or billed as the one that answered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.domain.attempts import Attempt, AttemptOutcome
from app.domain.problems import ProblemCode
from app.gateway.completions import CompletionStatus
from app.llm.messages import FinishReason
from tests.integration.faults import CAP, CASES, FAULTS, SCALE, Case, Outcome, ids, priced, run_cases
from tests.services import Stores
from tests.simulators import start_simulator

pytestmark = pytest.mark.timeout(120)

SKIPPED = {AttemptOutcome.SKIPPED_BUDGET, AttemptOutcome.SKIPPED_LIMIT, AttemptOutcome.SKIPPED_OPEN_CIRCUIT}
REPAIRED_BY_A_RETRY = {"429-retry-after", "500-once", "reset-once", "slow-first-token", "no-done", "answer-filtered"}
FINAL = {"prompt-filtered": ProblemCode.CONTENT_FILTERED}
PERHAPS_BILLED = {"reset", "silent"}
"""A request that arrived and was never answered: the server cannot know, and says so with an estimate."""
ONE_ATTEMPT = {
    "silent",
    "slow-first-token",
    "no-done",
    "context-too-long",
    "prompt-filtered",
    "answer-filtered",
    "stall-after-20",
}
BREAKS_WHEN_SHOWN = {"cut-after-40", "stall-after-20", "malformed", "error-event"}
CODES = {
    "429-for-ever": ProblemCode.RATE_LIMITED,
    "silent": ProblemCode.TIMEOUT,
    "stall-after-20": ProblemCode.TIMEOUT,
    "context-too-long": ProblemCode.CONTEXT_TOO_LONG,
    "prompt-filtered": ProblemCode.CONTENT_FILTERED,
}


@pytest.fixture(scope="module")
def outcomes(postgres_url: str, valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Case, Outcome]]:
    folder: Path = tmp_path_factory.mktemp("faults")
    with start_simulator("--cache-minimum-tokens", "100000") as simulator:
        yield run_cases(CASES, Stores.emptied(postgres_url, valkey_url, folder), simulator)


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def outcome(request: pytest.FixtureRequest, outcomes: dict[Case, Outcome]) -> Outcome:
    return outcomes[request.param]


def answering_target(case: Case) -> str | None:
    """The model that is to give the whole answer; None where a typed failure is right."""
    if case.fault in REPAIRED_BY_A_RETRY:
        return case.primary
    if not case.fallback or case.fault in FINAL or (case.streamed and case.fault in BREAKS_WHEN_SHOWN):
        return None
    return case.secondary


def sent(outcome: Outcome) -> list[Attempt]:
    return [attempt for attempt in outcome.attempts if attempt.outcome not in SKIPPED]


def test_ends_as_it_should(outcome: Outcome) -> None:
    case, target = outcome.case, answering_target(outcome.case)
    assert outcome.ends == (1 if case.streamed else 0)
    if target is None:
        assert outcome.problem is not None
        assert outcome.problem.code is CODES.get(case.fault, ProblemCode.PROVIDER_ERROR)
        assert outcome.problem.retryable == (case.fault not in {"context-too-long", "prompt-filtered"})
        return
    assert outcome.problem is None
    assert outcome.completion is not None
    assert (outcome.completion.status, outcome.completion.model) == (CompletionStatus.FINISHED, target)
    filtered = case.fault == "answer-filtered"
    assert outcome.completion.finish_reason is (FinishReason.CONTENT_FILTER if filtered else FinishReason.STOP)


def test_shows_a_whole_answer_or_says_that_it_is_none(outcome: Outcome) -> None:
    completion = outcome.completion
    if outcome.problem is None:
        assert completion is not None
        entry = outcome.entries_at(completion.model or "")[-1]
        assert outcome.case.fault == "no-done" or entry.state == "completed"
        assert completion.attempts[-1].usage is not None
        assert completion.attempts[-1].usage.output_tokens == entry.output_tokens
        assert not outcome.case.streamed or outcome.shown == (completion.text or "")
        return
    if completion is not None:
        assert completion.status is CompletionStatus.FAILED
        assert (completion.text or "") == outcome.shown
    assert bool(outcome.shown) == (outcome.case.streamed and outcome.case.fault in BREAKS_WHEN_SHOWN)


def test_is_over_in_bounded_time(outcome: Outcome) -> None:
    case = outcome.case
    longest = {"no-done": 1.0, "slow-first-token": 1.5, "silent": 2.5, "stall-after-20": 3.0}.get(case.fault, 7.0)
    if case.fault in {"context-too-long", "prompt-filtered", "answer-filtered"}:
        longest = 1.0
    assert outcome.seconds < longest
    if case.fault == "429-retry-after":
        first, second = (entry.at for entry in outcome.entries)
        assert (second - first).total_seconds() >= 1.0


def test_spares_the_providers(outcome: Outcome) -> None:
    case = outcome.case
    assert len(outcome.entries) <= 6
    assert len(outcome.entries_at(case.secondary)) <= 1
    tries = [entry.at.timestamp() for entry in outcome.entries_at(case.primary)]
    assert outcome.entries_at(case.primary)[0].fault == FAULTS[case.fault].get("fault", "delay")
    assert all(sum(0 <= other - at < 3 / SCALE for other in tries) <= 4 for at in tries)
    if case.fault in ONE_ATTEMPT:
        assert len(tries) == 1
    elif case.fault in REPAIRED_BY_A_RETRY:
        assert len(tries) == 2
    if case.streamed and case.fault in BREAKS_WHEN_SHOWN:
        assert len(outcome.entries) == 1
    if case.fallback:
        assert len(tries) <= 2


def test_reports_every_attempt_that_the_providers_saw(outcome: Outcome) -> None:
    reported = [(attempt.provider, attempt.model) for attempt in sent(outcome)]
    assert reported == [(entry.provider, entry.model) for entry in outcome.entries]
    reported_ids = [attempt.provider_request_id for attempt in sent(outcome)]
    assert all(reported_id in {None, entry.request_id} for reported_id, entry in zip(reported_ids, outcome.entries, strict=True))
    succeeded = [attempt.model for attempt in outcome.attempts if attempt.outcome is AttemptOutcome.SUCCEEDED]
    assert succeeded == ([] if outcome.problem is not None else [answering_target(outcome.case)])


def test_is_charged_for_what_was_billed_by_whom(outcome: Outcome) -> None:
    assert ids(outcome.records) == {attempt.key for attempt in sent(outcome)}
    by_key = {record.key: record for record in outcome.records}
    for attempt, entry in zip(sent(outcome), outcome.entries, strict=True):
        record = by_key[attempt.key]
        assert (record.provider, record.model, record.outcome) == (attempt.provider, attempt.model, attempt.outcome)
        if attempt.outcome is AttemptOutcome.SUCCEEDED and record.usage.confirmed:
            assert record.cost_usd == priced(entry)
        elif entry.billed or entry.fault in PERHAPS_BILLED:
            assert not record.usage.confirmed
            assert record.usage.input_tokens > 0
            assert (entry.output_tokens > 0) <= (record.usage.output_tokens > 0)
            assert record.usage.output_tokens <= CAP
        else:
            assert (record.cost_usd, record.usage.total_tokens) == (None, 0)
    if outcome.completion is not None and outcome.problem is None:
        assert outcome.completion.cost_usd == sum(record.cost_usd or 0 for record in outcome.records)
