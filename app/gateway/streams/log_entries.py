"""A completion's events as they stand in the log. The last entry does not hold the completion, because the ledger already has
it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from uuid import UUID

import msgspec

from app.domain.attempts import Attempt
from app.gateway.completions import Completion, CompletionStatus
from app.gateway.streams.events import (
    CompletionCancelled,
    CompletionDelta,
    CompletionEvent,
    CompletionFailed,
    CompletionFinished,
    CompletionRerouted,
    CompletionRestarted,
    CompletionStarted,
    ReasoningDelta,
    ToolCallDelta,
)
from app.llm import messages
from app.llm.routing import RestartReason


class EntryKind(Enum):
    STARTED = "started"
    TEXT = "text"
    REASONING = "reasoning"
    TOOL_CALL = "tool_call"
    REROUTED = "rerouted"
    RESTARTED = "restarted"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Entry:
    number: int
    at: datetime
    kind: EntryKind
    text: str | None = None
    tool_call: messages.ToolCallDelta | None = None
    attempt: Attempt | None = None
    reason: RestartReason | None = None

    @property
    def is_last(self) -> bool:
        return self.kind is EntryKind.ENDED


def encode_entry(entry: Entry) -> bytes:
    return msgspec.json.encode(entry)


_DECODER = msgspec.json.Decoder(Entry)


def decode_entry(data: bytes) -> Entry:
    return _DECODER.decode(data)


def event_of(entry: Entry, key: UUID) -> CompletionEvent:
    """Returns the event of an entry that is not the last."""
    if entry.kind is EntryKind.STARTED:
        return CompletionStarted(entry.number, entry.at, key)
    if entry.tool_call is not None:
        call = entry.tool_call
        return ToolCallDelta(entry.number, entry.at, call.tool_call_id, call.arguments_delta, call.name)
    if entry.attempt is not None and entry.reason is not None:
        return CompletionRestarted(entry.number, entry.at, entry.attempt, entry.reason)
    if entry.attempt is not None:
        return CompletionRerouted(entry.number, entry.at, entry.attempt)
    kind = ReasoningDelta if entry.kind is EntryKind.REASONING else CompletionDelta
    return kind(entry.number, entry.at, entry.text or "")


def last_event(number: int, at: datetime, completion: Completion) -> CompletionEvent:
    if completion.status is CompletionStatus.FINISHED:
        return CompletionFinished(number, at, completion)
    if completion.status is CompletionStatus.CANCELLED:
        return CompletionCancelled(number, at, completion)
    return CompletionFailed(number, at, completion.problem, completion)
