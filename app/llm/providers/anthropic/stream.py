"""Anthropic's streamed answer: message_start, content blocks with their deltas, message_delta, message_stop.

The answer is complete when its stop reason has arrived. message_delta brings it once, at the end, together with the usage.
message_stop only confirms it and is not waited for. A body that ends earlier is a truncated answer, even if the connection ends
normally.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from app.domain.usage import TokenUsage
from app.llm import failures
from app.llm.messages import ContentDelta, ModelCall, ReasoningDelta, TextDelta, ToolCallDelta
from app.llm.providers.answers import WholeAnswer
from app.llm.providers.anthropic.response import UNKNOWN_PART, Content, block_kind, tool_input, tool_use_id
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
    type: str = ""
    index: int | None = None
    message: Any = None
    content_block: dict[str, Any] | None = None
    delta: Delta | None = None
    usage: Any = None
    error: Any = None


class _StartBlock(msgspec.Struct, gc=False):
    input: msgspec.Raw = msgspec.Raw(b"")


class _Start(msgspec.Struct, gc=False):
    content_block: _StartBlock


class _Block:
    __slots__ = ("block", "is_understood", "pieces")

    def __init__(self, block: dict[str, Any]) -> None:
        self.block = block
        self.pieces: list[str] = []
        self.is_understood = True


_EVENT = msgspec.json.Decoder(Event)
_START = msgspec.json.Decoder(_Start)
_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Any)
_FIELD_OF_DELTA = {
    "text_delta": "text",
    "input_json_delta": "partial_json",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
}
_BLOCK_OF_DELTA = {
    "text_delta": "text",
    "input_json_delta": "tool_use",
    "thinking_delta": "thinking",
    "signature_delta": "thinking",
}
_BLOCKS = {"text", "tool_use", "thinking", "redacted_thinking"}
_EVENTS = {
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
    "ping",
    "error",
}


class AnthropicStream:
    """Reads events one by one. `started` is true after the first piece of content, `complete` when the stop reason is known,
    and `stopped` after message_stop. If `by_tool` is true, the answer comes as the input of a tool. Text before it may be only
    an introduction, so it is held back until the model calls the tool or stops without a call."""

    def __init__(self, call: ModelCall, notes: Notes, request_id: str | None, *, by_tool: bool = False) -> None:
        self._call = call
        self._notes = notes
        self._request_id = request_id
        self._content = Content(call, notes)
        self._blocks: list[_Block] = []
        self._open: dict[int, _Block] = {}
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
        """Returns the parts to pass on. Raises Malformed, and ProviderError for an error event."""
        event = _decode(payload)
        kind = event.type
        if kind == "content_block_delta":
            self.started = True
            return self._delta(event)
        if kind == "content_block_start":
            return self._block_start(event, payload)
        if kind == "content_block_stop":
            return self._input_of(self._open.pop(self._last_index if event.index is None else event.index, None))
        if kind == "message_delta":
            return self._message_delta(event)
        if kind == "message_start":
            self._start(event.message)
        elif kind == "message_stop":
            self.complete = self.stopped = True
            return self._end()
        elif kind == "error":
            raise failures.stream_failure(event.error, self._request_id)
        return ()

    def _start(self, message: object) -> None:
        if isinstance(message, Mapping):
            self._model = clean(word(message.get("model")) or self._model)
            self._figures = merged(self._figures, anthropic_figures(message.get("usage"), self._notes))

    def answer(self) -> WholeAnswer:
        for made in self._blocks:
            self._add(made)
        self._blocks.clear()
        self._content.require_words(self._stop_reason, self._figures)
        return self._content.whole(self._stop_reason, self.usage(), self._model, self._notes)

    def usage(self) -> TokenUsage:
        """The provider's final figures if the answer is complete, else an estimate from what was received. The output figure at
        the start of the stream is not used, because no output is known then."""
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
            return self._end()
        return ()

    def _end(self) -> Sequence[ContentDelta]:
        inputs = [part for block in self._blocks for part in self._input_of(block)]
        return [*self._release(), *inputs]

    def _release(self) -> Sequence[ContentDelta]:
        held, self._held = self._held, None
        return (TextDelta("".join(held)),) if held else ()

    @property
    def _last_index(self) -> int:
        """The index of the block that was opened last; -1 if none is open."""
        return next(reversed(self._open), -1)

    def _begin(self, index: int | None, block: dict[str, Any]) -> _Block:
        """Opens a block. A block without an index gets the place after the last one."""
        begun = self._open[self._last_index + 1 if index is None else index] = _Block(block)
        self._blocks.append(begun)
        return begun

    def _block_start(self, event: Event, payload: bytes) -> Sequence[ContentDelta]:
        block = event.content_block
        if block is None:
            return ()
        kind = block_kind(block)
        begun = self._begin(event.index, {**block, "type": kind})
        if kind == "tool_use":
            if word(block.get("name")) is None:
                raise Malformed
            begun.block |= {"id": tool_use_id(self._content, block), "input": _written_input(block, payload)}
            self.started = True
            if not self._content.is_answer(str(block.get("name"))):
                return (ToolCallDelta(begun.block["id"], "", clean(str(block.get("name")))),)
            self._held = None
        if kind == "thinking" and isinstance(thinking := block.get("thinking"), str):
            return self._show_thinking(thinking)
        text = block.get("text")
        return self._text(begun, text) if isinstance(text, str) and text else ()

    def _delta(self, event: Event) -> Sequence[ContentDelta]:
        delta = event.delta
        if delta is None:
            raise Malformed
        kind = _delta_kind(delta)
        if kind is None:
            if begun := self._open.get(self._last_index if event.index is None else event.index):
                begun.is_understood = False
            return ()
        block = self._block_of(event.index, _BLOCK_OF_DELTA[kind])
        if block.block["type"] not in _BLOCKS:
            block.is_understood = block.is_understood and kind == "input_json_delta"
            block.pieces.append(delta.partial_json)
            return ()
        if kind == "text_delta":
            return self._text(block, delta.text)
        if kind == "input_json_delta":
            return self._arguments(block, delta.partial_json)
        if kind == "thinking_delta":
            self._output_bytes += len(delta.thinking.encode())
            block.pieces.append(delta.thinking)
            return self._show_thinking(delta.thinking)
        block.block["signature"] = delta.signature
        return ()

    def _block_of(self, index: int | None, kind: str) -> _Block:
        """Returns the block to which a delta of this kind belongs: the block with its index, else the last open block of this
        kind, else a new block. A block that does not name its kind takes the kind of its first delta. A block of an unknown
        kind that gets text becomes a text block. Raises Malformed for arguments without a tool call."""
        block = self._open.get(self._last_index if index is None else index)
        known = None if block is None else block.block["type"]
        if block is not None and known not in _BLOCKS:
            if known is None and kind == "tool_use":
                raise Malformed
            if known is None or kind == "text":
                block.block["type"] = kind
            return block
        if known != kind:
            block = self._open.get(self._last_index)
        if block is None or block.block["type"] != kind:
            if kind == "tool_use":
                raise Malformed
            block = self._begin(index, {"type": kind})
        return block

    def _text(self, block: _Block, text: str) -> Sequence[ContentDelta]:
        text = clean(text)
        self._output_bytes += len(text.encode())
        block.pieces.append(text)
        if self._held is not None and text:
            self._held.append(text)
            return ()
        return (TextDelta(text),) if text else ()

    def _show_thinking(self, text: str) -> Sequence[ContentDelta]:
        return (ReasoningDelta(clean(text)),) if text and self._call.stream_reasoning else ()

    def _arguments(self, block: _Block, piece: str) -> Sequence[ContentDelta]:
        piece = clean(piece)
        self._output_bytes += len(piece.encode())
        block.pieces.append(piece)
        if not piece:
            return ()
        if self._content.is_answer(str(block.block.get("name"))):
            return (TextDelta(piece),)
        return (ToolCallDelta(str(block.block["id"]), piece),)

    def _input_of(self, block: _Block | None) -> Sequence[ContentDelta]:
        """Some servers give the whole input at the start of a block; pieces that come after it are taken instead."""
        if block is None or block.block["type"] != "tool_use" or any(block.pieces):
            return ()
        return self._arguments(block, block.block["input"])

    def _add(self, made: _Block) -> None:
        block, written = made.block, "".join(made.pieces)
        kind = block.get("type")
        if kind == "text":
            self._content.texts.append(written)
        elif kind == "tool_use":
            self._content.add_tool_use(str(block["id"]), str(block["name"]), written or "{}", block)
        elif kind == "thinking":
            self._content.add_reasoning({**block, "thinking": str(block.get("thinking", "")) + written})
        elif kind == "redacted_thinking":
            self._content.add_reasoning(block)
        else:
            self._add_other(made, written)

    def _add_other(self, made: _Block, written: str) -> None:
        """A block of an unknown type is kept if it can be put together."""
        block = made.block
        try:
            if written:
                block["input"] = decode(_ANY, written.encode())
        except Malformed:
            made.is_understood = False
        if made.is_understood and block["type"] is not None:
            self._content.add_other(block)
        else:
            self._notes.add(UNKNOWN_PART)


def _written_input(block: Mapping[str, object], payload: bytes) -> str:
    """As it was written; empty if it says nothing yet."""
    value = block.get("input")
    if not value:
        return ""
    if isinstance(value, Mapping):
        try:
            return bytes(decode(_START, payload).content_block.input).decode("utf-8", "replace")
        except Malformed:
            return tool_input(value)
    return tool_input(value)


def _decode(payload: bytes) -> Event:
    """Fields of a wrong type are ignored. Raises Malformed if the words of the delta cannot be read."""
    try:
        event = decode(_EVENT, payload)
    except Malformed:
        body = decode(_ANY, payload)
        if not isinstance(body, Mapping):
            raise
        event = _loose_event(body)
    if event.type not in _EVENTS:
        event.type = _event_kind(event) or event.type
    return event


def _loose_event(body: Mapping[str, object]) -> Event:
    index, block, delta = body.get("index"), body.get("content_block"), body.get("delta")
    return Event(
        word(body.get("type")) or "",
        index=index if isinstance(index, int) and not isinstance(index, bool) else None,
        message=body.get("message"),
        content_block=block if isinstance(block, dict) else None,
        delta=_loose_delta(delta) if isinstance(delta, Mapping) else None,
        usage=body.get("usage"),
        error=body.get("error"),
    )


def _event_kind(event: Event) -> str | None:
    """Returns the type of an event without a known type, by its fields; None if the event can be ignored."""
    if event.error is not None:
        return "error"
    if event.content_block is not None:
        return "content_block_start"
    if event.delta is not None:
        return "message_delta" if event.delta.stop_reason else "content_block_delta" if _delta_kind(event.delta) else None
    return "message_start" if isinstance(event.message, Mapping) else None


def _delta_kind(delta: Delta) -> str | None:
    """Returns the delta's type if it is known, else the type that fits the field it has."""
    if delta.type in _FIELD_OF_DELTA:
        return delta.type
    return next((kind for kind, name in _FIELD_OF_DELTA.items() if getattr(delta, name)), None)


def _loose_delta(delta: Mapping[str, object]) -> Delta:
    """Arguments may come as an object instead of its JSON text. Raises Malformed if words have another type."""
    words = {key: value for key, value in delta.items() if key in Delta.__struct_fields__ and isinstance(value, str)}
    if isinstance(arguments := delta.get("partial_json"), dict):
        words["partial_json"] = tool_input(arguments) if arguments else ""
    if any(delta.get(name) is not None and name not in words for name in ("text", "partial_json")):
        raise Malformed
    return Delta(**words)
