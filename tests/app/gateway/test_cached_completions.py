"""What decides whether two requests get the same answer."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from uuid import UUID

import pytest

from app.gateway.cached_completions import OF_THE_CALL, is_storable
from app.gateway.completions import Completion, CompletionRequest, CompletionStatus
from app.llm.messages import FinishReason

WHOLE = Completion(
    UUID(int=1), CompletionStatus.FINISHED, "acme", datetime(2026, 11, 30, tzinfo=UTC), finish_reason=FinishReason.STOP
)


def test_every_field_that_does_not_decide_the_answer_is_one_of_the_request() -> None:
    """A new field of a request is part of its key unless it is listed."""
    assert {field.name for field in dataclasses.fields(CompletionRequest)} > OF_THE_CALL


@pytest.mark.parametrize(
    ("completion", "storable"),
    [
        (WHOLE, True),
        (dataclasses.replace(WHOLE, finish_reason=FinishReason.TOOL_CALLS), True),
        (dataclasses.replace(WHOLE, finish_reason=FinishReason.LENGTH), False),
        (dataclasses.replace(WHOLE, finish_reason=FinishReason.CONTENT_FILTER), False),
        (dataclasses.replace(WHOLE, finish_reason=None), False),
        (dataclasses.replace(WHOLE, capped_by_budget=True), False),
        (dataclasses.replace(WHOLE, status=CompletionStatus.CANCELLED), False),
        (dataclasses.replace(WHOLE, status=CompletionStatus.FAILED), False),
        (dataclasses.replace(WHOLE, problem=object()), False),
    ],
)
def test_only_whole_answers_are_stored(completion: Completion, *, storable: bool) -> None:
    assert is_storable(completion) is storable
