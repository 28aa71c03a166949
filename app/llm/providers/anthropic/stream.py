"""Anthropic's streamed answer: message_start, content blocks with their deltas, message_delta, message_stop.

A message_delta brings the stop reason and the usage. After it, a message_stop may be missing. A body that ends with neither is
a truncated answer, even if the connection ends normally. Events and deltas of unknown types are ignored.
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
from app.llm.providers.stream_reader import Mark, StreamReader
from app.llm.providers.unsupported import Notes
from app.llm.providers.usage_figures import anthropic_figures_of, may_have_figures, merged
from app.llm.providers.usage_mapping import anthropic_usage, estimated_usage
from app.llm.providers.wire_text import DECODING_ERRORS, Malformed, TextPieces, clean, decode, decode_loosely, word


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


class AnthropicStream(StreamReader):
    """If `by_tool` is true, the answer comes as the input of a tool. Text before it may be only an introduction, so it is held
    back until the model calls the tool or stops without a call."""

    def __init__(self, call: ModelCall, notes: Notes, request_id: str | None, *, by_tool: bool = False) -> None:
        super().__init__(call, notes, request_id)
        self._content = Content(call, notes)
        self._texts = TextPieces()
        self._blocks: list[_Block] = []
        self._open: dict[int, _Block] = {}
        self._has_final_figures = False
        self._model = call.model
        self._stop_reason: str | None = None
        self._held: list[str] | None = [] if by_tool else None

    @property
    def is_billed(self) -> bool:
        return self._has_final_figures

    def _mark_of_done(self) -> Mark | None:
        """It is no event of this protocol, but some servers add it."""
        return Mark.TERMINAL if self.complete else None

    def _read_object(self, payload: bytes, parts: list[ContentDelta]) -> Mark | None:
        event = self._decode(payload)
        if event is None:
            return None
        kind = event.type
        if kind == "content_block_delta":
            parts += self._delta(event)
        elif kind == "content_block_start":
            parts += self._block_start(event, payload)
        elif kind == "content_block_stop":
            parts += self._input_of(self._open.pop(self._last_index if event.index is None else event.index, None))
        else:
            return self._read_message_event(kind, event, payload, parts)
        return None

    def _read_message_event(self, kind: str, event: Event, payload: bytes, parts: list[ContentDelta]) -> Mark | None:
        if kind == "error" or (not kind and failures.tells_failure(decode_loosely(payload))):
            raise failures.stream_failure(decode_loosely(payload), self._request_id)
        if may_have_figures(payload):
            self._read_figures(decode_loosely(payload), is_final=kind != "message_start")
        if event.delta is not None and _delta_kind(event.delta) is not None:
            parts += self._delta(event)
        if kind == "message_start" and isinstance(event.message, Mapping):
            self._model = clean(word(event.message.get("model")) or self._model)
            parts += self._first_content(event.message.get("content"))
        elif kind == "message_delta" and event.delta is not None and event.delta.stop_reason:
            self._stop_reason = event.delta.stop_reason
            return Mark.FINISH
        return Mark.TERMINAL if kind == "message_stop" else None

    def _read_figures(self, body: Mapping[str, object], *, is_final: bool) -> None:
        """The output figure at the start of the stream is not used, because no output is known then."""
        later = anthropic_figures_of(body, self._notes)
        self._figures = merged(self._figures, later)
        self._has_final_figures = self._has_final_figures or (is_final and bool(later.output))

    def _read_late_figures(self, event: Any) -> None:
        if isinstance(event, Mapping):
            self._read_figures(event, is_final=True)

    def _decode(self, payload: bytes) -> Event | None:
        """Fields of a wrong type are ignored. Returns None if the event is ignored. Raises Malformed if the words of its delta
        cannot be read."""
        try:
            event = _EVENT.decode(payload)
        except DECODING_ERRORS:
            body = self._decode_loosely(payload)
            if not isinstance(body, Mapping):
                return None
            event = self._loose_event(body)
        if event.type not in _EVENTS:
            event.type = _event_kind(event) or event.type
        return event

    def _loose_event(self, body: Mapping[str, object]) -> Event:
        index, block, delta = body.get("index"), body.get("content_block"), body.get("delta")
        kind = word(body.get("type")) or ""
        if not isinstance(delta, Mapping) and (kind == "content_block_delta" or (delta is not None and kind not in _EVENTS)):
            self._leave_out(delta)
        return Event(
            kind,
            index=index if isinstance(index, int) and not isinstance(index, bool) else None,
            message=body.get("message"),
            content_block=block if isinstance(block, dict) else None,
            delta=_loose_delta(delta) if isinstance(delta, Mapping) else None,
            error=body.get("error"),
        )

    def _first_content(self, content: object) -> list[ContentDelta]:
        """The content that a message already has at its start. If it is streamed correctly, it has none."""
        blocks = [block for block in content if block is not None] if isinstance(content, list) else []
        parts: list[ContentDelta] = []
        for block in blocks:
            if isinstance(block, dict):
                parts += self._block_start(Event(content_block=block), b"")
                self._open.clear()
            else:
                self._leave_out(block)
        return parts

    def _held_back(self) -> Sequence[ContentDelta]:
        rest = "".join((*(self._held or ()), self._texts.end()))
        self._held = None
        inputs = [part for block in self._blocks for part in self._input_of(block)]
        return [TextDelta(rest), *inputs] if rest else inputs

    def answer(self) -> WholeAnswer:
        for made in self._blocks:
            self._add(made)
        if self._texts:
            self._content.texts = [self._texts.text]
        self._blocks.clear()
        self._content.require_words(self._stop_reason, self._figures)
        return self._content.whole(self._stop_reason, self.usage(), self._model, self._notes)

    def usage(self) -> TokenUsage:
        """The provider's final figures if the answer is complete, else an estimate from what was received."""
        figures = self._figures
        if self.complete and self.is_billed:
            return anthropic_usage(figures, self._call, self._output_bytes, self._notes)
        estimate = estimated_usage(self._call, self._output_bytes)
        output = max(estimate.output_tokens, figures.output or 0) if self.is_billed else estimate.output_tokens
        known = dataclasses.replace(figures, output=output)
        return dataclasses.replace(anthropic_usage(known, self._call, self._output_bytes), confirmed=False)

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
            if not self._content.is_answer(str(block.get("name"))):
                return (ToolCallDelta(begun.block["id"], "", clean(str(block.get("name")))),)
            if self._held is not None:
                self._texts, self._held = TextPieces(), None
        if kind == "thinking" and isinstance(thinking := block.get("thinking"), str):
            return self._show_thinking(thinking)
        text = block.get("text")
        return self._text(text) if isinstance(text, str) and text else ()

    def _delta(self, event: Event) -> Sequence[ContentDelta]:
        delta = event.delta
        kind = None if delta is None else _delta_kind(delta)
        if delta is None or kind is None:
            if begun := self._open.get(self._last_index if event.index is None else event.index):
                begun.is_understood = False
            return ()
        block = self._signed(event.index) if kind == "signature_delta" else None
        block = block or self._block_of(event.index, _BLOCK_OF_DELTA[kind])
        if block.block["type"] not in _BLOCKS:
            block.is_understood = block.is_understood and kind == "input_json_delta"
            block.pieces.append(delta.partial_json)
            return ()
        if kind == "text_delta":
            return self._text(delta.text)
        if kind == "input_json_delta":
            return self._arguments(block, delta.partial_json)
        if kind == "thinking_delta":
            thought = clean(delta.thinking)
            self._output_bytes += len(thought.encode())
            block.pieces.append(thought)
            return self._show_thinking(thought)
        block.block["signature"] = delta.signature
        return ()

    def _signed(self, index: int | None) -> _Block | None:
        """A signature belongs to the block of its index, also if that is a text or a tool call."""
        block = self._open.get(self._last_index if index is None else index)
        return block if block is not None and block.block["type"] in _BLOCKS else None

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

    def _text(self, text: str) -> Sequence[ContentDelta]:
        """All text blocks become one text, in the order in which it is shown."""
        text = self._texts.take(text)
        self._output_bytes += len(text.encode())
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
            return (TextDelta(self._texts.take(piece)),)
        return (ToolCallDelta(str(block.block["id"]), piece),)

    def _input_of(self, block: _Block | None) -> Sequence[ContentDelta]:
        """Some servers send the whole input at the start of a block. Pieces that come later replace it."""
        if block is None or block.block["type"] != "tool_use" or any(block.pieces):
            return ()
        return self._arguments(block, block.block["input"])

    def _add(self, made: _Block) -> None:
        block, written = made.block, "".join(made.pieces)
        kind = block.get("type")
        if kind == "text":
            self._content.texts = [self._texts.text]
            self._content.keep_text_fields(block)
        elif kind == "tool_use":
            self._content.add_tool_use(str(block["id"]), str(block["name"]), written or "{}", block)
        elif kind == "thinking":
            self._content.add_reasoning({**block, "thinking": str(block.get("thinking", "")) + written})
        elif kind == "redacted_thinking":
            self._content.add_reasoning(block)
        else:
            self._add_other(made, written)

    def _add_other(self, made: _Block, written: str) -> None:
        """Keeps a block of an unknown type if its pieces can be joined."""
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
    """The input as it was written; empty if it says nothing yet."""
    value = block.get("input")
    if not value:
        return ""
    if isinstance(value, Mapping):
        try:
            return bytes(decode(_START, payload).content_block.input).decode("utf-8", "replace")
        except Malformed:
            return tool_input(value)
    return tool_input(value)


def _event_kind(event: Event) -> str | None:
    """Returns the type of an event without a known type, by its fields; None if the event can be ignored."""
    if event.error:
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
