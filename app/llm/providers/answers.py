"""What the two wire protocols share: an answer that was read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from app.domain.usage import TokenUsage
from app.llm.messages import FinishReason, Json, ToolCall
from app.llm.providers.unsupported import Notes
from app.llm.providers.wire_text import Malformed, clean

READING_ERRORS = (Malformed, ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""If an answer makes its reader fail with one of these, the answer cannot be read."""
BILLED_WITHOUT_WORDS = "The provider counted output, and the answer that it gave is empty."
UNKNOWN_FINISH = "The provider gave no known finish reason; it was derived from the answer."
REPEATED_ID = "The provider gave several tool calls the same id; all but the first were given ids of their own."


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """`fields` are the unknown fields of the message. `call_fields` are those of each tool call, by its id."""

    text: str | None
    tool_calls: tuple[ToolCall, ...]
    reasoning: Json
    finish_reason: FinishReason
    usage: TokenUsage
    model: str
    fields: Mapping[str, object] = field(default_factory=dict)
    call_fields: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


class CallIds:
    """Gives each tool call of an answer its own id, because a result uses the id to say which call it answers."""

    def __init__(self, notes: Notes, new_id: Callable[[], str]) -> None:
        self._notes = notes
        self._new_id = new_id
        self._seen: set[str] = set()

    def distinct(self, given: str | None) -> str:
        call_id = clean(given) if given else self._new_id()
        if call_id in self._seen:
            self._notes.add(REPEATED_ID)
            call_id = self._new_id()
        self._seen.add(call_id)
        return call_id
