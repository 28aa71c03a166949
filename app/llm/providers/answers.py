"""What the two wire protocols share: a whole answer that was read, and the reader of a streamed one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from app.domain.usage import TokenUsage
from app.llm.messages import ContentDelta, FinishReason, Json, ToolCall

UNKNOWN_FINISH = "The provider gave no known finish reason; it was derived from the answer."


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    text: str | None
    tool_calls: tuple[ToolCall, ...]
    reasoning: Json
    finish_reason: FinishReason
    usage: TokenUsage
    model: str


class AnswerReader(Protocol):
    """Reads one streamed answer, event by event. `started` is true after the first piece of content, `complete` when nothing of
    the answer is missing, and `stopped` when nothing more can come."""

    started: bool
    complete: bool
    stopped: bool

    def read(self, payload: bytes) -> Sequence[ContentDelta]:
        """Returns the parts to pass on. Raises Malformed, and ProviderError for an error inside the stream."""
        ...

    def answer(self) -> WholeAnswer: ...

    def usage(self) -> TokenUsage:
        """What has been billed so far. It is an estimate unless the answer is complete."""
        ...
