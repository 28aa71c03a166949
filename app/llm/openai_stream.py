"""The streamed answer of POST /v1/chat/completions: chunks, one last with usage alone, then [DONE].

The answer is complete with its finish reason, or with [DONE] from servers that give none. After the finish reason only usage
is still awaited, and with it everything is known, whether or not [DONE] follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from app.llm import failures
from app.llm.answers import WholeAnswer
from app.llm.messages import ContentDelta, ModelCall, TextDelta, ToolCall, ToolCallDelta
from app.llm.openai_request import REASONING_FIELDS
from app.llm.openai_response import ToolCallBody, arguments_text, billed, build_answer, new_tool_call_id, read_usage
from app.llm.unsupported import Notes
from app.llm.usage_mapping import OpenAIUsage
from app.llm.wire_text import Malformed, clean, decode
from app.usage import TokenUsage

_DONE = b"[DONE]"


class Delta(msgspec.Struct, gc=False):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCallBody] | None = None
    reasoning_content: str | None = None
    reasoning: Any = None


class ChunkChoice(msgspec.Struct, gc=False):
    index: int = 0
    delta: Delta | None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct, gc=False):
    choices: list[ChunkChoice] | None = None
    model: str | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: Any = None
    object: str | None = None
    service_tier: Any = None


class _Call:
    __slots__ = ("id", "name", "pieces")

    def __init__(self, call_id: str, name: str) -> None:
        self.id = call_id
        self.name = name
        self.pieces: list[str] = []


_CHUNK = msgspec.json.Decoder(Chunk)
_ANY = msgspec.json.Decoder(Any)


class OpenAIStream:
    def __init__(self, call: ModelCall, notes: Notes, request_id: str | None) -> None:
        self._call = call
        self._notes = notes
        self._request_id = request_id
        self._texts: list[str] = []
        self._refusals: list[str] = []
        self._reasoning: dict[str, list[str]] = {}
        self._calls: dict[int, _Call] = {}
        self._usage: OpenAIUsage | None = None
        self._model: str | None = None
        self._service_tier: object = None
        self._finish: str | None = None
        self._output_bytes = 0
        self.started = False
        self.complete = False
        self.stopped = False

    def read(self, payload: bytes) -> Sequence[ContentDelta]:
        """The parts to pass on. Raises Malformed, and ProviderError for an error inside the stream."""
        if payload == _DONE:
            self.complete = self.stopped = True
            return ()
        chunk = decode(_CHUNK, payload)
        if chunk.error is not None or chunk.object == "error":
            error = chunk.error if chunk.error is not None else decode(_ANY, payload)
            raise failures.stream_failure(error, self._request_id)
        if self._model is None and chunk.model:
            self._model = chunk.model
        parts: list[ContentDelta] = []
        for choice in chunk.choices or ():
            if choice.index == 0:
                self._read_choice(choice, parts)
        self._usage = read_usage(chunk.usage) or self._usage
        self._service_tier = chunk.service_tier or self._service_tier
        if self._finish is not None and self._usage is not None and not chunk.choices:
            self.stopped = True
        return parts

    def answer(self) -> WholeAnswer:
        calls = tuple(ToolCall(made.id, made.name, "".join(made.pieces) or "{}") for made in self._calls.values())
        return build_answer(
            text="".join(self._texts) if self._texts else None,
            refusal="".join(self._refusals),
            tool_calls=calls,
            reasoning={name: "".join(pieces) for name, pieces in self._reasoning.items()},
            finish=self._finish,
            usage=self.usage(),
            model=self._model or self._call.model,
            notes=self._notes,
        )

    def usage(self) -> TokenUsage:
        return billed(self._usage if self.complete else None, self._call, self._output_bytes, self._service_tier)

    def _read_choice(self, choice: ChunkChoice, parts: list[ContentDelta]) -> None:
        delta = choice.delta
        if delta is not None:
            if delta.content:
                parts.append(self._text(delta.content, self._texts))
            if delta.refusal:
                parts.append(self._text(delta.refusal, self._refusals))
            for body in delta.tool_calls or ():
                self._tool_call(body, parts)
            if delta.reasoning_content or delta.reasoning:
                self._think(delta)
        if choice.finish_reason:
            self._finish = choice.finish_reason
            self.complete = True

    def _text(self, text: str, texts: list[str]) -> TextDelta:
        self.started = True
        text = clean(text)
        self._output_bytes += len(text.encode())
        texts.append(text)
        return TextDelta(text)

    def _think(self, delta: Delta) -> None:
        self.started = True
        for name in REASONING_FIELDS:
            piece = getattr(delta, name)
            if isinstance(piece, str) and piece:
                self._output_bytes += len(piece.encode())
                self._reasoning.setdefault(name, []).append(piece)

    def _tool_call(self, body: ToolCallBody, parts: list[ContentDelta]) -> None:
        self.started = True
        function = body.function
        name = function.name if function is not None else None
        index = self._place(body, name)
        made = self._calls.get(index)
        if made is None:
            if not name:
                raise Malformed
            made = self._calls[index] = _Call(clean(body.id) if body.id else new_tool_call_id(), clean(name))
            parts.append(ToolCallDelta(made.id, "", made.name))
        piece = arguments_text(function.arguments) if function is not None else ""
        if piece:
            self._output_bytes += len(piece.encode())
            made.pieces.append(piece)
            parts.append(ToolCallDelta(made.id, piece))

    def _place(self, body: ToolCallBody, name: str | None) -> int:
        """Servers that leave the index out send one call after the other: a new name, or id, begins the next."""
        if body.index is not None:
            return body.index
        last = next(reversed(self._calls), -1)
        begins = last < 0 or (body.id is not None and body.id != self._calls[last].id) or (body.id is None and bool(name))
        return last + 1 if begins else last
