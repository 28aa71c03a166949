"""Turns the events of a completion into the chunks of a streamed chat completion."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec

from app.domain.money import format_decimal
from app.doors.failures import DoorFailed, failure_of, failure_of_reason
from app.doors.openai.request import ChatRequest
from app.doors.openai.response import FINISH, error_body, usage_of
from app.gateway.completions import Completion
from app.gateway.streams.events import (
    CompletionCancelled,
    CompletionDelta,
    CompletionEvent,
    CompletionFailed,
    CompletionFinished,
    CompletionStarted,
    ToolCallDelta,
)
from app.llm.messages import FinishReason
from app.llm.routing import ProvidersFailed

PING = b": waiting\n\n"
_DONE = b"data: [DONE]\n\n"
_CANCELLED = ProvidersFailed("The call was cancelled.", (), retryable=False)


class ChatStream:
    def __init__(self, request: ChatRequest, created: int) -> None:
        self._request = request
        self._created = created
        self._id = ""
        self._calls: dict[str, int] = {}
        self._spoken = False

    async def pieces(self, events: AsyncGenerator[CompletionEvent, None]) -> AsyncGenerator[bytes, None]:
        """Raises DoorFailed if the call fails."""
        async for event in events:
            match event:
                case CompletionStarted():
                    self._id = event.completion_id
                case CompletionDelta():
                    yield self._delta({"content": event.text})
                case ToolCallDelta():
                    yield self._delta({"tool_calls": [self._call(event)]})
                case CompletionFinished():
                    yield self._end(event.completion)
                case CompletionFailed():
                    raise DoorFailed(failure_of_reason(event.problem))
                case CompletionCancelled():
                    raise DoorFailed(failure_of_reason(_CANCELLED))

    def _call(self, event: ToolCallDelta) -> dict[str, object]:
        """The first chunk of a call has its id and name."""
        if event.tool_call_id in self._calls:
            return {"index": self._calls[event.tool_call_id], "function": {"arguments": event.arguments_delta}}
        place = self._calls[event.tool_call_id] = len(self._calls)
        function = {"name": event.name, "arguments": event.arguments_delta}
        return {"index": place, "id": event.tool_call_id, "type": "function", "function": function}

    def _delta(self, delta: dict[str, object]) -> bytes:
        if not self._spoken:
            self._spoken = True
            delta = {"role": "assistant", "content": None, **delta}
        return self._chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])

    def _end(self, completion: Completion) -> bytes:
        reason = FINISH[completion.finish_reason or FinishReason.STOP]
        delta: dict[str, object] = {} if self._spoken else {"role": "assistant", "content": ""}
        found = self._chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}])
        if self._request.include_usage:
            found += self._chunk([], usage_of(completion))
        cost = "unknown" if completion.cost_usd is None else format_decimal(completion.cost_usd)
        return found + f": x-greenlang-cost-usd {cost}\n\n".encode() + _DONE

    def _chunk(self, choices: list[dict[str, object]], usage: dict[str, object] | None = None) -> bytes:
        chunk: dict[str, object] = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._request.model,
            "choices": choices,
        }
        if self._request.include_usage:
            chunk["usage"] = usage
        return _event(chunk)


def error_piece(request_id: str, error: Exception) -> bytes:
    """The last event of a stream that breaks."""
    return _event(error_body(failure_of(error, request_id)))


def _event(payload: object) -> bytes:
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"
