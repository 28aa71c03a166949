"""Anthropic's answer, whole: content blocks, stop reason and usage."""

from __future__ import annotations

from typing import Any

import msgspec

from app.llm.answers import UNKNOWN_FINISH, WholeAnswer
from app.llm.anthropic_request import JSON_TOOL, REASONING_FORMAT
from app.llm.messages import FinishReason, Json, ModelCall, ToolCall
from app.llm.unsupported import Notes
from app.llm.usage_mapping import AnthropicUsage, answer_bytes, anthropic_usage, estimated_usage
from app.llm.wire_text import Malformed, clean, decode
from app.usage import TokenUsage

_FINISHED = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.CONTENT_FILTER,
}
_REASONING = {"thinking", "redacted_thinking"}


class ContentBlock(msgspec.Struct, gc=False):
    type: str
    text: str = ""
    id: str = ""
    name: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")


class MessageBody(msgspec.Struct, gc=False):
    content: list[msgspec.Raw]
    model: str
    stop_reason: str | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")


_MESSAGE = msgspec.json.Decoder(MessageBody)
_BLOCK = msgspec.json.Decoder(ContentBlock)
_USAGE: msgspec.json.Decoder[AnthropicUsage | None] = msgspec.json.Decoder(AnthropicUsage | None)
_OBJECT = msgspec.json.Decoder(dict[str, Any])


class Content:
    """What an answer consists of, collected block by block, in the order of the answer.

    Text blocks are one text; reasoning blocks are kept as they are, each with its place among the others.
    """

    def __init__(self, call: ModelCall) -> None:
        self._by_tool = call.response_format is not None
        self._model = call.model
        self.texts: list[str] = []
        self.tool_calls: list[ToolCall] = []
        self._reasoning: list[Json] = []

    def is_answer(self, tool_name: str) -> bool:
        """The tool that we added ourselves, to be given JSON."""
        return self._by_tool and tool_name == JSON_TOOL

    def add_tool_use(self, tool_id: str, name: str, arguments: str) -> None:
        if self.is_answer(name):
            self.texts = [arguments]
        else:
            self.tool_calls.append(ToolCall(clean(tool_id), clean(name), clean(arguments)))

    def add_reasoning(self, block: dict[str, Json]) -> None:
        place = len(self._reasoning) + len(self.tool_calls) + bool(self.texts)
        self._reasoning.append([place, block])

    def whole(self, stop_reason: str | None, usage: TokenUsage, model: str, notes: Notes) -> WholeAnswer:
        """An answer by the tool we added has stopped: it calls nothing."""
        finished = _FINISHED.get(stop_reason or "")
        if finished is None:
            notes.add(UNKNOWN_FINISH)
        if finished in {None, FinishReason.TOOL_CALLS}:
            finished = FinishReason.TOOL_CALLS if self.tool_calls else FinishReason.STOP
        return WholeAnswer(
            text="".join(self.texts) if self.texts else None,
            tool_calls=tuple(self.tool_calls),
            reasoning=self._kept_reasoning(),
            finish_reason=finished,
            usage=usage,
            model=model,
        )

    def _kept_reasoning(self) -> Json:
        if not self._reasoning:
            return None
        return {"format": REASONING_FORMAT, "model": self._model, "blocks": self._reasoning}


def read_usage(raw: bytes | msgspec.Raw) -> AnthropicUsage | None:
    """None where there is none that can be read; a billed answer is not lost for its figures."""
    try:
        return decode(_USAGE, bytes(raw))
    except Malformed:
        return None


def billed(usage: AnthropicUsage | None, call: ModelCall, output_bytes: int) -> TokenUsage:
    if usage is None or usage.output_tokens is None:
        return estimated_usage(call, output_bytes)
    return anthropic_usage(usage)


def read_answer(raw: bytes, call: ModelCall, notes: Notes) -> WholeAnswer:
    """Raises Malformed."""
    message = decode(_MESSAGE, raw)
    content = Content(call)
    for raw_block in message.content:
        _add_block(content, bytes(raw_block), notes)
    usage = billed(read_usage(message.usage), call, answer_bytes("".join(content.texts), content.tool_calls))
    return content.whole(message.stop_reason, usage, clean(message.model), notes)


def _add_block(content: Content, raw: bytes, notes: Notes) -> None:
    block = decode(_BLOCK, raw)
    if block.type == "text":
        content.texts.append(clean(block.text))
    elif block.type == "tool_use":
        content.add_tool_use(block.id, block.name, bytes(block.input).decode("utf-8", "replace"))
    elif block.type in _REASONING:
        content.add_reasoning(decode(_OBJECT, raw))
    else:
        notes.add("A part of the answer that is of no kind known here was left out.")
