"""The events of one completion, in the order in which watchers see them.

A cursor is the event's number within its completion, counted from 1. The last event is exactly one of Finished, Failed or
Cancelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from app.domain.attempts import Attempt
from app.domain.ids import format_id
from app.domain.paging import decode_cursor, encode_cursor, not_a_cursor
from app.domain.problems import InvalidInput
from app.gateway.completions import Completion
from app.llm.routing import ProvidersFailed, RestartReason

UNSETTLED = ProvidersFailed("The cost of the answer could not be saved.", (), retryable=True)
BEYOND_THE_END = InvalidInput("The cursor is after the completion's last event.", ("after",))
_CURSOR = "completion"
_MAX_DIGITS = 15


@dataclass(frozen=True, slots=True)
class Numbered:
    number: int
    at: datetime

    @property
    def cursor(self) -> str:
        return encode_cursor(_CURSOR, str(self.number))


@dataclass(frozen=True, slots=True)
class CompletionStarted(Numbered):
    key: UUID

    @property
    def completion_id(self) -> str:
        return format_id("cmp", self.key)


@dataclass(frozen=True, slots=True)
class CompletionDelta(Numbered):
    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta(Numbered):
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta(Numbered):
    tool_call_id: str
    arguments_delta: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class CompletionRerouted(Numbered):
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class CompletionRestarted(Numbered):
    """Every delta before this event is void."""

    attempt: Attempt
    reason: RestartReason


@dataclass(frozen=True, slots=True)
class CompletionFinished(Numbered):
    completion: Completion


@dataclass(frozen=True, slots=True)
class CompletionFailed(Numbered):
    """`partial` has the text so far and what it cost. It is None if nothing was started."""

    problem: object
    partial: Completion | None


@dataclass(frozen=True, slots=True)
class CompletionCancelled(Numbered):
    completion: Completion


@dataclass(frozen=True, slots=True)
class CompletionHeartbeat(Numbered):
    """Shows that the stream is alive. `number` is that of the last event before it."""


CompletionEvent: TypeAlias = (
    CompletionStarted
    | CompletionDelta
    | ReasoningDelta
    | ToolCallDelta
    | CompletionRerouted
    | CompletionRestarted
    | CompletionFinished
    | CompletionFailed
    | CompletionCancelled
    | CompletionHeartbeat
)


def number_of(cursor: str | None) -> int:
    """Returns the event number in a cursor, 0 without a cursor. Raises Refused(InvalidInput) if the text is no cursor of a
    completion."""
    if cursor is None:
        return 0
    (text,) = decode_cursor(_CURSOR, cursor, 1)
    if not text.isascii() or not text.isdigit() or len(text) > _MAX_DIGITS:
        raise not_a_cursor("stream")
    return int(text)
