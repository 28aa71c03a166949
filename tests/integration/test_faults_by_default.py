"""The classic faults with the time-outs and retries that users have by default. All cases wait at the same time, so all of it
takes little longer than the longest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.domain.problems import ProblemCode
from app.gateway.completions import CompletionStatus
from app.settings import ProviderTimeouts, RetrySettings
from tests.integration.faults import CASES, Case, Outcome, Pace, run_cases
from tests.services import Stores
from tests.simulators import start_simulator

pytestmark = pytest.mark.timeout(240)

MAX_SECONDS = 60.0
MAX_SECONDS_ALONE_AND_SILENT = 120.0
DEFAULTS = Pace(ProviderTimeouts(), RetrySettings(), at_once=len(CASES))
ENDS_ANYWHERE = {"prompt-filtered"}
SHOWN_BEFORE = {"cut-after-40", "stall-after-20", "malformed", "error-event"}


@pytest.fixture(scope="module")
def outcomes(postgres_url: str, valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Case, Outcome]]:
    folder: Path = tmp_path_factory.mktemp("faults")
    with start_simulator("--cache-minimum-tokens", "100000") as simulator:
        yield run_cases(CASES, Stores.emptied(postgres_url, valkey_url, folder), simulator, DEFAULTS)


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def outcome(request: pytest.FixtureRequest, outcomes: dict[Case, Outcome]) -> Outcome:
    return outcomes[request.param]


def test_ends_in_an_answer_or_a_typed_failure_in_time(outcome: Outcome) -> None:
    case = outcome.case
    assert outcome.ends == (1 if case.streamed else 0)
    assert (outcome.problem is None) == (
        outcome.completion is not None and outcome.completion.status is CompletionStatus.FINISHED
    )
    is_alone_and_silent = case.fault == "silent" and not case.fallback
    assert outcome.seconds < (MAX_SECONDS_ALONE_AND_SILENT if is_alone_and_silent else MAX_SECONDS)


def test_another_target_gives_the_answer_unless_nothing_can(outcome: Outcome) -> None:
    case = outcome.case
    if not case.fallback or case.fault in ENDS_ANYWHERE or (case.streamed and case.fault in SHOWN_BEFORE):
        return
    assert outcome.problem is None
    assert len(outcome.entries_at(case.primary)) <= 2


def test_a_silent_target_is_asked_once(outcome: Outcome) -> None:
    case = outcome.case
    if case.fault != "silent":
        return
    assert len(outcome.entries_at(case.primary)) == 1
    if not case.fallback:
        assert outcome.problem is not None
        assert outcome.problem.code is ProblemCode.TIMEOUT
