"""Anthropic's answer, streamed: message_start, content blocks with their deltas, message_delta, message_stop.

The answer is complete when its stop reason has come, which message_delta brings once, at the end, together with the usage;
message_stop only confirms it and is not waited for. A body that ends before is a truncated answer, however cleanly it ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from app.domain.usage import TokenUsage
from app.llm import failures
from app.llm.messages import ContentDelta, ModelCall, TextDelta, ToolCallDelta
from app.llm.providers.answers import WholeAnswer
from app.llm.providers.anthropic.response import UNKNOWN_PART, Content, new_tool_use_id, tool_input
from app.llm.providers.unsupported import Notes
from app.llm.providers.usage_figures import Figures, anthropic_figures, merged
from app.llm.providers.usage_mapping import anthropic_usage, estimated_usage
from app.llm.providers.wire_text import Malformed, clean, decode, word


class Delta(msgspec.Struct, gc=False):
    type: str = ""
    text: str = ""
    partial_json: str = ""
    thinking: str = ""
    signature: str = ""
    stop_reason: str | None = None


class Event(msgspec.Struct, gc=False):
    type: str
    index: int = 0
    message: Any = None
    content_block: dict[str, Any] | None = None
    delta: Delta | None = None
    usage: Any = None
    error: Any = None


class _OpenBlock:
    __slots__ = ("block", "pieces")

    def __init__(self, block: dict[str, Any]) -> None:
        self.block = block
        self.pieces: list[str] = []


_EVENT = msgspec.json.Decoder(Event)
_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Any)
_WORDS_OF_DELTA = {
    "text_delta": "text",
    "input_json_delta": "partial_json",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
}
_BLOCK_OF_DELTA = {"": "text", "text_delta": "text", "thinking_delta": "thinking", "signature_delta": "thinking"}


class AnthropicStream:
    """Reads events one by one. `started` after the first piece of content, `complete` once the stop reason is known,
    `stopped` after message_stop. Where the answer is asked for `by_tool`, text may only lead up to it: it is held back until
    the model has called the tool, or stopped without."""

    def __init__(self, call: ModelCall, notes: Notes, request_id: str | None, *, by_tool: bool = False) -> None:
        self._call = call
        self._notes = notes
        self._request_id = request_id
        self._content = Content(call)
        self._blocks: dict[int, _OpenBlock] = {}
        self._figures = Figures()
        self._is_billed = False
        self._model = call.model
        self._stop_reason: str | None = None
        self._output_bytes = 0
        self._held: list[str] | None = [] if by_tool else None
        self.started = False
        self.complete = False
        self.stopped = False

    def read(self, payload: bytes) -> Sequence[ContentDelta]:
        """The parts to pass on. Raises Malformed, and ProviderError for an error event."""
        event = _decode(payload)
        kind = event.type
        if kind == "content_block_delta":
            self.started = True
            return self._delta(event)
        if kind == "content_block_start":
            return self._block_start(event)
        if kind == "content_block_stop":
            self._block_stop(event.index)
        elif kind == "message_delta":
            return self._message_delta(event)
        elif kind == "message_start":
            self._start(event.message)
        elif kind == "message_stop":
            self.complete = self.stopped = True
            return self._release()
        elif kind == "error":
            raise failures.stream_failure(event.error, self._request_id)
        return ()

    def _start(self, message: object) -> None:
        if isinstance(message, Mapping):
            self._model = clean(word(message.get("model")) or self._model)
            self._figures = merged(self._figures, anthropic_figures(message.get("usage"), self._notes))

    def answer(self) -> WholeAnswer:
        for index in list(self._blocks):
            self._block_stop(index)
        self._content.require_words(self._stop_reason, self._figures)
        return self._content.whole(self._stop_reason, self.usage(), self._model, self._notes)

    def usage(self) -> TokenUsage:
        """The provider's final figures if the answer is complete; else an estimate from what has come. The start of the stream
        knows no output: what it says of that is no figure."""
        figures = self._figures
        if self.complete and self._is_billed:
            return anthropic_usage(figures, self._call, self._output_bytes, self._notes)
        estimate = estimated_usage(self._call, self._output_bytes)
        output = max(estimate.output_tokens, figures.output or 0) if self._is_billed else estimate.output_tokens
        known = dataclasses.replace(figures, output=output)
        return dataclasses.replace(anthropic_usage(known, self._call, self._output_bytes), confirmed=False)

    def _message_delta(self, event: Event) -> Sequence[ContentDelta]:
        later = anthropic_figures(event.usage, self._notes)
        self._figures = merged(self._figures, later)
        self._is_billed = self._is_billed or bool(later.output)
        if event.delta is not None and event.delta.stop_reason is not None:
            self._stop_reason = event.delta.stop_reason
            self.complete = True
            self.stopped = bool(later)
            return self._release()
        return ()

    def _release(self) -> Sequence[ContentDelta]:
        held, self._held = self._held, None
        return (TextDelta("".join(held)),) if held else ()

    def _block_start(self, event: Event) -> Sequence[ContentDelta]:
        block = event.content_block
        if block is None:
            return ()
        self._blocks[event.index] = _OpenBlock(block)
        if block.get("type") == "tool_use":
            if word(block.get("name")) is None:
                raise Malformed
            block.setdefault("id", new_tool_use_id())
            self.started = True
            if not self._content.is_answer(str(block.get("name"))):
                return (ToolCallDelta(clean(str(block.get("id"))), "", clean(str(block.get("name")))),)
            self._held = None
        text = block.get("text")
        return self._text(self._blocks[event.index], text) if isinstance(text, str) and text else ()

    def _delta(self, event: Event) -> Sequence[ContentDelta]:
        """A block that was never opened, or was opened with another index, is opened by a delta that shows its kind."""
        delta, open_block = event.delta, self._blocks.get(event.index)
        if delta is None:
            raise Malformed
        if open_block is None:
            kind = _BLOCK_OF_DELTA.get(delta.type)
            if kind is None:
                raise Malformed
            open_block = self._blocks[event.index] = _OpenBlock({"type": kind})
        if delta.type == "text_delta":
            return self._text(open_block, delta.text)
        if delta.type == "input_json_delta":
            return self._arguments(open_block, delta.partial_json)
        if delta.type == "thinking_delta":
            self._output_bytes += len(delta.thinking.encode())
            open_block.pieces.append(delta.thinking)
        elif delta.type == "signature_delta":
            open_block.block["signature"] = delta.signature
        elif delta.text:
            return self._text(open_block, delta.text)
        return ()

    def _text(self, open_block: _OpenBlock, text: str) -> Sequence[ContentDelta]:
        text = clean(text)
        self._output_bytes += len(text.encode())
        open_block.pieces.append(text)
        if self._held is not None and text:
            self._held.append(text)
            return ()
        return (TextDelta(text),) if text else ()

    def _arguments(self, open_block: _OpenBlock, piece: str) -> Sequence[ContentDelta]:
        piece = clean(piece)
        self._output_bytes += len(piece.encode())
        open_block.pieces.append(piece)
        if not piece:
            return ()
        if self._content.is_answer(str(open_block.block.get("name"))):
            return (TextDelta(piece),)
        return (ToolCallDelta(clean(str(open_block.block.get("id"))), piece),)

    def _block_stop(self, index: int) -> None:
        open_block = self._blocks.pop(index, None)
        if open_block is None:
            return
        block, written = open_block.block, "".join(open_block.pieces)
        kind = block.get("type")
        if kind == "text":
            self._content.texts.append(written)
        elif kind == "tool_use":
            self._content.add_tool_use(str(block.get("id")), str(block.get("name")), written or tool_input(block.get("input")))
        elif kind == "thinking":
            self._content.add_reasoning({**block, "thinking": str(block.get("thinking", "")) + written})
        elif kind == "redacted_thinking":
            self._content.add_reasoning(block)
        else:
            self._notes.add(UNKNOWN_PART)


def _decode(payload: bytes) -> Event:
    """An event with fields of other types than they should be is read without them. Raises Malformed if it has no type, or if its
    delta cannot be read."""
    try:
        return decode(_EVENT, payload)
    except Malformed:
        body = decode(_ANY, payload)
    kind = body.get("type") if isinstance(body, Mapping) else None
    if not isinstance(kind, str):
        raise Malformed
    index, block, delta = body.get("index"), body.get("content_block"), body.get("delta")
    return Event(
        kind,
        index=index if isinstance(index, int) else 0,
        message=body.get("message"),
        content_block=block if isinstance(block, dict) else None,
        delta=_loose_delta(delta) if isinstance(delta, Mapping) else None,
        usage=body.get("usage"),
        error=body.get("error"),
    )


def _loose_delta(delta: Mapping[str, object]) -> Delta:
    kind = delta.get("type")
    name = _WORDS_OF_DELTA.get(kind) if isinstance(kind, str) else None
    if name is not None and not isinstance(delta.get(name), str):
        raise Malformed
    words = {key: value for key, value in delta.items() if key in Delta.__struct_fields__ and isinstance(value, str)}
    return Delta(**words)
