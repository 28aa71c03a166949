"""The streamed answer of POST /v1/chat/completions: chunks, a last chunk with usage alone, then [DONE].

The answer is complete with its finish reason, or with [DONE] from servers that give none. After that only usage is awaited, for
a moment. When usage has arrived, nothing more is needed, with or without [DONE]. A chunk is decoded into the expected types.
Only a chunk with other types is read field by field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from app.domain.errors import ProviderError
from app.domain.usage import TokenUsage
from app.llm import failures
from app.llm.messages import ContentDelta, ModelCall, ReasoningDelta, TextDelta
from app.llm.providers.answers import WholeAnswer
from app.llm.providers.opaque_fields import Fields, join
from app.llm.providers.openai.content import CallPiece, MessageParts, first_choice, read_message
from app.llm.providers.openai.response import build_answer, finish_word, require_words
from app.llm.providers.openai.tool_calls import ToolCallAssembly
from app.llm.providers.unsupported import Notes
from app.llm.providers.usage_figures import Figures, merged, openai_figures_of
from app.llm.providers.usage_mapping import estimated_usage, openai_usage
from app.llm.providers.wire_text import Malformed, clean, decode, word

_DONE = b"[DONE]"
_NOTHING = msgspec.Raw(b"null")


class Function(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    name: str | None = None
    arguments: str | None = None


class ToolCallBody(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    index: int | None = None
    id: str | None = None
    function: Function | None = None
    type: msgspec.Raw = _NOTHING


class Delta(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """Unknown fields are a provider's state: a delta with any is read field by field."""

    content: str | None = None
    role: msgspec.Raw = _NOTHING
    annotations: msgspec.Raw = _NOTHING
    audio: msgspec.Raw = _NOTHING
    refusal: str | None = None
    tool_calls: list[ToolCallBody] | None = None
    function_call: msgspec.Raw = _NOTHING
    reasoning_content: str | None = None
    reasoning: str | None = None


class ChunkChoice(msgspec.Struct, gc=False):
    index: int = 0
    delta: Delta | None = None
    finish_reason: str | None = None
    usage: msgspec.Raw = _NOTHING
    message: msgspec.Raw = _NOTHING


class Chunk(msgspec.Struct, gc=False):
    choices: list[ChunkChoice] | None = None
    model: str | None = None
    usage: msgspec.Raw = _NOTHING
    x_groq: msgspec.Raw = _NOTHING
    usageMetadata: msgspec.Raw = _NOTHING  # noqa: N815  # the wire's own name
    timings: msgspec.Raw = _NOTHING
    error: Any = None
    object: str | None = None
    service_tier: Any = None


_CHUNK = msgspec.json.Decoder(Chunk)
_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Any)


class OpenAIStream:
    def __init__(self, call: ModelCall, notes: Notes, request_id: str | None) -> None:
        self._call = call
        self._notes = notes
        self._request_id = request_id
        self._texts: list[str] = []
        self._refusals: list[str] = []
        self._shown: list[str] = []
        self._reasoning: dict[str, list[str]] = {}
        self._calls = ToolCallAssembly(notes)
        self._fields: Fields = {}
        self._figures = Figures()
        self._model: str | None = None
        self._service_tier: object = None
        self._finish: str | None = None
        self._output_bytes = 0
        self.started = False
        self.complete = False
        self.stopped = False

    def read(self, payload: bytes) -> Sequence[ContentDelta]:
        """Returns the parts to pass on. Raises Malformed, and ProviderError for an error inside the stream."""
        if payload == _DONE:
            self.complete = True
            self.stopped = self._is_billed
            return ()
        parts: list[ContentDelta] = []
        try:
            chunk = decode(_CHUNK, payload)
        except Malformed:
            self._read_loosely(payload, parts)
            return parts
        if chunk.error or chunk.object == "error":
            raise self._error(decode(_ANY, payload))
        if chunk.choices is None and failures.tells_failure(body := decode(_ANY, payload)):
            raise self._error(body)
        if self._model is None and chunk.model:
            self._model = chunk.model
        has_figures = any(bytes(each) != b"null" for each in (chunk.usage, chunk.x_groq, chunk.usageMetadata, chunk.timings))
        if chunk.choices:
            choice = next((each for each in chunk.choices if each.index == 0), chunk.choices[0])
            self._read_choice(choice, parts)
            has_figures = has_figures or bytes(choice.usage) != b"null"
        if has_figures:
            self._read_figures(decode(_ANY, payload))
        self._service_tier = chunk.service_tier or self._service_tier
        if self._finish is not None and self._is_billed and not chunk.choices:
            self.stopped = True
        return parts

    @property
    def _is_billed(self) -> bool:
        return bool(self._figures.output or self._figures.total)

    def _error(self, body: object) -> ProviderError:
        return failures.stream_failure(body, self._request_id)

    def _read_figures(self, body: Mapping[str, object]) -> None:
        self._figures = merged(self._figures, openai_figures_of(body, self._notes))

    def _read_loosely(self, payload: bytes, parts: list[ContentDelta]) -> None:
        """Reads a chunk whose fields do not have the expected types. Raises Malformed if its words cannot be read."""
        body = decode(_ANY, payload)
        if not isinstance(body, Mapping):
            raise Malformed
        choice = first_choice(body.get("choices"))
        if body.get("error") or body.get("object") == "error":
            raise self._error(body)
        if choice is None and failures.tells_failure(body):
            raise self._error(body)
        self._model = self._model or word(body.get("model"))
        self._service_tier = body.get("service_tier") or self._service_tier
        self._read_figures(body)
        if choice is None:
            if body.get("choices"):
                raise Malformed
            self.stopped = self._finish is not None and self._is_billed
            return
        self._read_loose_choice(choice, parts)

    def _read_loose_choice(self, choice: Mapping[str, object], parts: list[ContentDelta]) -> None:
        delta = choice.get("delta") or choice.get("message")
        if isinstance(delta, Mapping):
            self._take(read_message(delta, self._notes), parts)
        elif isinstance(text := delta or choice.get("text"), str):
            parts.append(self._text(text, self._texts))
        elif delta:
            raise Malformed
        if (finish := finish_word(choice.get("finish_reason"))) is not None:
            self._finish = finish
            self.complete = True

    def _take(self, message: MessageParts, parts: list[ContentDelta]) -> None:
        self._think(message.reasoning, parts)
        if message.text:
            parts.append(self._text(message.text, self._texts))
        if message.refusal:
            parts.append(self._text(message.refusal, self._refusals))
        for call in message.calls:
            self._tool_call(call, parts)
        if message.fields:
            self.started = True
            join(self._fields, message.fields)

    def answer(self) -> WholeAnswer:
        calls = self._calls.whole()
        text, refusal = "".join(self._texts) if self._texts else None, "".join(self._shown) if self._refusals else ""
        if not (self.started or calls):
            require_words(MessageParts(text, refusal), self._finish, figures=self._figures)
        return build_answer(
            text,
            refusal,
            calls,
            reasoning={name: "".join(pieces) for name, pieces in self._reasoning.items()},
            fields=self._fields,
            call_fields=self._calls.fields(),
            finish=self._finish,
            usage=self.usage(),
            model=self._model or self._call.model,
            notes=self._notes,
        )

    def usage(self) -> TokenUsage:
        """If the answer is not complete, the usage of what was received. Figures that came meanwhile are the least that it
        cost."""
        if self.complete:
            return openai_usage(self._figures, self._call, self._output_bytes, self._service_tier, self._notes)
        estimate = estimated_usage(self._call, self._output_bytes)
        if not self._figures:
            return estimate
        output = max(estimate.output_tokens, self._figures.output or 0)
        known = replace(self._figures, output=output, total=None)
        return replace(openai_usage(known, self._call, self._output_bytes, self._service_tier), confirmed=False)

    def _read_choice(self, choice: ChunkChoice, parts: list[ContentDelta]) -> None:
        delta = choice.delta
        if delta is None and bytes(choice.message) != b"null":
            self._read_loose_choice({"message": decode(_ANY, bytes(choice.message))}, parts)
        if delta is not None:
            if delta.reasoning_content or delta.reasoning:
                self._think({"reasoning_content": delta.reasoning_content, "reasoning": delta.reasoning}, parts)
            if delta.content:
                parts.append(self._text(delta.content, self._texts))
            if delta.refusal:
                parts.append(self._text(delta.refusal, self._refusals))
            for body in delta.tool_calls or ():
                self._tool_call(_piece(body), parts)
            if not delta.tool_calls and bytes(delta.function_call) != b"null":
                self._take(read_message({"function_call": decode(_ANY, bytes(delta.function_call))}, self._notes), parts)
        if choice.finish_reason:
            self._finish = finish_word(choice.finish_reason)
            self.complete = True

    def _text(self, text: str, texts: list[str]) -> TextDelta:
        self.started = True
        text = clean(text)
        self._output_bytes += len(text.encode())
        texts.append(text)
        self._shown.append(text)
        return TextDelta(text)

    def _think(self, reasoning: Mapping[str, str | None], parts: list[ContentDelta]) -> None:
        """Of a server that gives the same words under two names, one is shown."""
        pieces = {name: piece for name, piece in reasoning.items() if piece}
        for name, piece in pieces.items():
            self.started = True
            self._output_bytes += len(piece.encode())
            self._reasoning.setdefault(name, []).append(piece)
        if pieces and self._call.stream_reasoning:
            parts.append(ReasoningDelta(clean(next(iter(pieces.values())))))

    def _tool_call(self, piece: CallPiece, parts: list[ContentDelta]) -> None:
        self.started = True
        for part in self._calls.take(piece):
            self._output_bytes += len(part.arguments_delta.encode())
            parts.append(part)


def _piece(body: ToolCallBody) -> CallPiece:
    function = body.function
    if function is None:
        return CallPiece(body.index, body.id or None, None, "")
    return CallPiece(body.index, body.id or None, function.name, function.arguments or "")
