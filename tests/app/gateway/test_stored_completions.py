from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest

from app.costs.holds import StoredCall
from app.domain.attempts import Attempt, AttemptOutcome
from app.domain.problems import InvalidInput, ProblemCode
from app.domain.usage import Label, Operation, TokenUsage
from app.gateway.completions import Completion, CompletionStatus
from app.gateway.stored_completions import CONTENT_NOT_KEPT, StoredCompletions
from app.llm.messages import FinishReason, ProviderState, ToolCall
from app.llm.routing import ProvidersFailed, RateLimited
from app.secrets.sealing import Sealer, UnsealError

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
KEY = bytes(range(32))
ATTEMPT = Attempt(
    uuid4(),
    "openai",
    "gpt-5.4-mini",
    AttemptOutcome.SUCCEEDED,
    NOW,
    12.5,
    200,
    ProblemCode.TIMEOUT,
    "req-1",
    TokenUsage(uncached_input_tokens=3, visible_output_tokens=4),
    Decimal("0.000000000001"),
)
WHOLE = Completion(
    uuid4(),
    CompletionStatus.FINISHED,
    "acme",
    NOW,
    text="An answer with \x00 and ☃",
    reasoning=[{"type": "thinking", "thinking": "hm", "signature": "x"}],
    tool_calls=(ToolCall("1", "look", '{"a": 1}', ProviderState("gemini", "openai-compatible", '{"signature": "SIG"}')),),
    provider_state=ProviderState("gemini", "openai-compatible", '{"n": 12345678901234567890123}'),
    finish_reason=FinishReason.TOOL_CALLS,
    notes=("Left out: seed.",),
    usage=ATTEMPT.usage,
    cost_usd=ATTEMPT.cost_usd,
    attempts=(ATTEMPT,),
    latency_ms=20.0,
    labels=(Label("team", "x"),),
    finished_at=NOW,
)
FAILED = Completion(
    uuid4(), CompletionStatus.FAILED, "acme", NOW, problem=ProvidersFailed("No target answered.", (ATTEMPT,), retryable=True)
)


def stored(completion: Completion, document: bytes | None, *, tenant: str = "acme", key: UUID | None = None) -> StoredCall:
    return StoredCall(
        key or completion.key,
        tenant,
        Operation.COMPLETION,
        completion.status.value,
        document,
        NOW,
        completion.finished_at,
        "research",
    )


class TestDocuments:
    @pytest.mark.parametrize(
        "completion",
        [
            WHOLE,
            FAILED,
            replace(FAILED, problem=RateLimited("No room.", timedelta(seconds=1.5), "openai")),
            replace(FAILED, problem=InvalidInput("It does not take seed.", ("seed",))),
        ],
        ids=["finished", "failed", "without room", "refused"],
    )
    @pytest.mark.parametrize("sealer", [Sealer(), Sealer([KEY])], ids=["open", "sealed"])
    def test_give_back_what_they_were_made_of(self, completion: Completion, sealer: Sealer) -> None:
        documents = StoredCompletions(sealer, keep_content=True)
        assert documents.read(stored(completion, documents.encode(completion))) == completion

    def test_leave_content_out_where_it_is_not_to_be_kept(self) -> None:
        documents = StoredCompletions(Sealer(), keep_content=False)
        document = documents.encode(WHOLE)
        kept = documents.read(stored(WHOLE, document))
        assert (kept.text, kept.tool_calls, kept.reasoning, kept.provider_state) == (None, (), None, None)
        assert kept.notes == (*WHOLE.notes, CONTENT_NOT_KEPT)
        assert (kept.usage, kept.cost_usd, kept.attempts) == (WHOLE.usage, WHOLE.cost_usd, WHOLE.attempts)
        assert b"answer" not in document

    def test_open_for_their_own_tenant_and_completion_alone(self) -> None:
        documents = StoredCompletions(Sealer([KEY]), keep_content=True)
        document = documents.encode(WHOLE)
        assert b"answer" not in document
        for tenant, key in (("globex", WHOLE.key), ("acme", uuid4())):
            with pytest.raises(UnsealError):
                documents.read(stored(WHOLE, document, tenant=tenant, key=key))


class TestCallsWithoutADocument:
    def test_are_reported_by_what_the_ledger_knows(self) -> None:
        documents = StoredCompletions(Sealer(), keep_content=True)
        running = Completion(uuid4(), CompletionStatus.RUNNING, "acme", NOW)
        reported = documents.read(stored(running, None))
        assert (reported.status, reported.problem, reported.agent) == (CompletionStatus.RUNNING, None, "research")

    def test_are_failures_that_may_be_tried_again_where_their_owner_died(self) -> None:
        reported = StoredCompletions(Sealer(), keep_content=True).read(stored(FAILED, None))
        assert isinstance(reported.problem, ProvidersFailed)
        assert reported.problem.retryable

    def test_say_that_their_content_is_no_longer_kept(self) -> None:
        documents = StoredCompletions(Sealer(), keep_content=True)
        reported = documents.read(replace(stored(WHOLE, None), attempts=WHOLE.attempts, expired=True))
        assert (reported.status, reported.text, reported.problem) == (CompletionStatus.FINISHED, None, None)
        assert reported.notes == (CONTENT_NOT_KEPT,)
        failed = documents.read(replace(stored(FAILED, None), expired=True))
        assert isinstance(failed.problem, ProvidersFailed)
        assert not failed.problem.retryable

    def test_cost_what_they_were_charged(self) -> None:
        documents = StoredCompletions(Sealer(), keep_content=True)
        failed = replace(FAILED, attempts=(ATTEMPT, ATTEMPT))
        reported = documents.read(replace(stored(failed, None), attempts=failed.attempts))
        assert reported.cost_usd == 2 * (ATTEMPT.cost_usd or 0)
        assert isinstance(reported.problem, ProvidersFailed)
        assert reported.problem.attempts == reported.attempts == failed.attempts

    def test_cost_no_one_knows_what_where_a_price_is_unknown(self) -> None:
        documents = StoredCompletions(Sealer(), keep_content=True)
        attempts = (ATTEMPT, replace(ATTEMPT, cost_usd=None))
        assert documents.read(replace(stored(FAILED, None), attempts=attempts)).cost_usd is None
