"""What the two wire protocols have in common: an answer read whole, and the reader of a streamed one."""

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
    """Reads one streamed answer, event by event.

    `started` after the first piece of content; `complete` once nothing is missing from the answer; `stopped` once nothing more
    can come.
    """

    started: bool
    complete: bool
    stopped: bool

    def read(self, payload: bytes) -> Sequence[ContentDelta]:
        """The parts to pass on. Raises Malformed, and ProviderError for an error inside the stream."""
        ...

    def answer(self) -> WholeAnswer: ...

    def usage(self) -> TokenUsage:
        """What has been billed so far; an estimate unless complete."""
        ...
