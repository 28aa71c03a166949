"""The streamed answer of POST /v1/chat/completions: chunks, a last chunk with usage alone, then [DONE].

A chunk is decoded into the expected types. Only a chunk with other types is read field by field. If there are several choices,
the one with index 0 is read. A delta is always a new piece. A `message` in its place may also repeat everything so far, as
DashScope and Perplexity send it. Then only its new part counts.
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
from app.llm.providers.openai.content import CallPiece, MessageParts, read_message
from app.llm.providers.openai.response import WITHOUT_WORDS, build_answer, finish_word, require_words
from app.llm.providers.openai.tool_calls import ToolCallAssembly
from app.llm.providers.stream_reader import Mark, StreamReader, may_hold_words
from app.llm.providers.unsupported import Notes
from app.llm.providers.usage_figures import may_have_figures, merged, openai_figures_of
from app.llm.providers.usage_mapping import estimated_usage, openai_usage
from app.llm.providers.wire_text import DECODING_ERRORS, Malformed, TextPieces, clean, decode, decode_loosely, without_half, word

OTHER_CHOICE = "The provider gave more than one answer; only the first one was used."
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
    message: Any = None
    text: Any = None
    error: Any = None


class Chunk(msgspec.Struct, gc=False):
    choices: list[ChunkChoice] | None = None
    model: str | None = None
    error: Any = None
    object: str | None = None
    service_tier: Any = None


_CHUNK = msgspec.json.Decoder(Chunk)
_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Any)


class OpenAIStream(StreamReader):
    def __init__(self, call: ModelCall, notes: Notes, request_id: str | None) -> None:
        super().__init__(call, notes, request_id)
        self._texts = TextPieces()
        self._refusals = TextPieces()
        self._shown: list[str] = []
        self._reasoning: dict[str, list[str]] = {}
        self._calls = ToolCallAssembly(notes)
        self._fields: Fields = {}
        self._index: int | None = None
        self._others = set[object]()
        self._has_deltas = False
        self._model: str | None = None
        self._service_tier: object = None
        self._finish: str | None = None

    @property
    def is_billed(self) -> bool:
        return bool(self._figures.output or self._figures.total)

    def _read_object(self, payload: bytes, parts: list[ContentDelta]) -> Mark | None:
        try:
            chunk = _CHUNK.decode(payload)
        except DECODING_ERRORS:
            return self._read_loosely(payload, parts)
        if chunk.error or chunk.object == "error":
            raise self._error(decode_loosely(payload))
        if not chunk.choices and chunk.choices is None and failures.tells_failure(body := decode_loosely(payload)):
            raise self._error(body)
        if self._model is None and chunk.model:
            self._model = chunk.model
        if may_have_figures(payload):
            self._read_figures(decode_loosely(payload))
        self._service_tier = chunk.service_tier or self._service_tier
        if not chunk.choices:
            return self._mark_of_usage()
        mark = None
        for choice in sorted(chunk.choices, key=_is_other) if len(chunk.choices) > 1 else chunk.choices:
            if self._follows(choice.index):
                mark = self._read_choice(choice, parts) or mark
            else:
                self._leave_choice(choice.index, payload)
        return mark

    def _mark_of_done(self) -> Mark:
        return Mark.TERMINAL

    def _mark_of_usage(self) -> Mark | None:
        return Mark.USAGE if self.complete and self.is_billed else None

    def _error(self, body: object) -> ProviderError:
        return failures.stream_failure(body, self._request_id)

    def _read_figures(self, body: Mapping[str, object]) -> None:
        self._figures = merged(self._figures, openai_figures_of(body, self._notes))

    def _read_late_figures(self, event: Any) -> None:
        if isinstance(event, Mapping):
            self._read_figures(event)

    def _follows(self, index: object) -> bool:
        """Whether this choice is the answer: the one with index 0, or the first one if there is none. Raises Malformed if
        another choice was read as the answer before that one came."""
        if not isinstance(index, int) or isinstance(index, bool) or index == self._index:
            return True
        if self._index is None or (index == 0 and not self.started):
            self._index = index
            return True
        if index == 0:
            raise Malformed
        return False

    def _leave_choice(self, index: object, payload: bytes) -> None:
        if may_hold_words(payload):
            self._notes.add(OTHER_CHOICE)
            self._others.add(index)

    @property
    def _lacks_words(self) -> bool:
        """Other answers are numbered from 1, next to one with index 0 that has its own end. If they are not, their words may
        belong to this answer."""
        return bool(self._others) and (self._finish is None or self._others != set(range(1, len(self._others) + 1)))

    def _read_loosely(self, payload: bytes, parts: list[ContentDelta]) -> Mark | None:
        """Reads a chunk whose fields do not have the expected types."""
        body = self._decode_loosely(payload)
        if not isinstance(body, Mapping):
            return None
        choices = _choices(body.get("choices"))
        if body.get("error") or body.get("object") == "error" or (not choices and failures.tells_failure(body)):
            raise self._error(body)
        self._model = self._model or word(body.get("model"))
        self._service_tier = body.get("service_tier") or self._service_tier
        self._read_figures(body)
        mark = None if choices else self._mark_of_usage()
        for choice in choices:
            if not isinstance(choice, Mapping):
                self._leave_out(choice)
            elif self._follows(index := choice.get("index")):
                mark = self._read_loose_choice(choice, parts) or mark
            else:
                self._leave_choice(index, payload)
        return mark

    def _read_loose_choice(self, choice: Mapping[str, object], parts: list[ContentDelta]) -> Mark | None:
        delta, came = choice.get("delta"), len(parts)
        if isinstance(delta, Mapping):
            self._take(read_message(delta, self._notes), parts)
        elif isinstance(delta, str):
            self._text(delta, self._texts, parts)
        elif delta is not None:
            self._leave_out(delta)
        self._has_deltas = self._has_deltas or len(parts) > came
        if len(parts) == came:
            self._read_message(choice.get("message"), choice.get("text"), parts)
        return self._read_finish(finish_word(choice.get("finish_reason")), choice)

    def _read_message(self, message: object, text: object, parts: list[ContentDelta]) -> None:
        """Reads what comes in place of a delta: a piece, or everything so far."""
        if isinstance(message, Mapping):
            said = read_message(message, self._notes)
            if self._has_deltas:
                said.reasoning.clear()
                said.calls.clear()
                said.fields = {} if self._fields else said.fields
            said.text = None if said.text is None else self._rest_of(said.text)
            self._take(said, parts)
        elif isinstance(piece := message or text, str):
            self._text(piece, self._texts, parts)
        elif piece is not None:
            self._leave_out(piece)

    def _rest_of(self, text: str) -> str:
        """Returns only the new part of a message that repeats what was received. Raises Malformed if it differs from the received
        deltas."""
        so_far, text = self._texts.text, without_half(text)
        if so_far and text.startswith(so_far):
            return text[len(so_far) :]
        if not self._has_deltas:
            return text
        if text.strip() != so_far.strip():
            raise Malformed
        return ""

    def _read_finish(self, finish: str | None, choice: Mapping[str, object]) -> Mark | None:
        if choice.get("error") and finish in {None, "error"}:
            raise self._error(choice)
        if finish is None:
            return None
        if self._finish not in WITHOUT_WORDS or not self.complete:
            self._finish = finish
        return Mark.FINISH

    def _take(self, message: MessageParts, parts: list[ContentDelta]) -> None:
        self._think(message.reasoning, parts)
        if message.text:
            self._text(message.text, self._texts, parts)
        if message.refusal:
            self._text(message.refusal, self._refusals, parts)
        for call in message.calls:
            self._tool_call(call, parts)
        if message.fields:
            self.started = True
            join(self._fields, message.fields)

    def _held_back(self) -> Sequence[ContentDelta]:
        ends = [each for texts in (self._texts, self._refusals) if (each := texts.end())]
        self._shown += ends
        return [TextDelta(each) for each in ends]

    def answer(self) -> WholeAnswer:
        if self._lacks_words:
            raise Malformed
        calls = self._calls.whole()
        text, refusal = self._texts.text if self._texts else None, "".join(self._shown) if self._refusals else ""
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

    def _read_choice(self, choice: ChunkChoice, parts: list[ContentDelta]) -> Mark | None:
        if choice.delta is not None:
            self._read_delta(choice.delta, parts)
        if parts:
            self._has_deltas = True
        elif choice.message is not None or choice.text is not None:
            self._read_message(choice.message, choice.text, parts)
        if choice.finish_reason or choice.error:
            return self._read_finish(finish_word(choice.finish_reason), {"error": choice.error})
        return None

    def _read_delta(self, delta: Delta, parts: list[ContentDelta]) -> None:
        if delta.reasoning_content or delta.reasoning:
            self._think({"reasoning_content": delta.reasoning_content, "reasoning": delta.reasoning}, parts)
        if delta.content:
            self._text(delta.content, self._texts, parts)
        if delta.refusal:
            self._text(delta.refusal, self._refusals, parts)
        for body in delta.tool_calls or ():
            self._tool_call(_piece(body), parts)
        if not delta.tool_calls and bytes(delta.function_call) != b"null":
            self._take(read_message({"function_call": decode(_ANY, bytes(delta.function_call))}, self._notes), parts)

    def _text(self, text: str, texts: TextPieces, parts: list[ContentDelta]) -> None:
        text = texts.take(text)
        if text:
            self._output_bytes += len(text.encode())
            self._shown.append(text)
            parts.append(TextDelta(text))

    def _think(self, reasoning: Mapping[str, str | None], parts: list[ContentDelta]) -> None:
        """If a server sends the same words under two names, only one is shown."""
        pieces = {name: clean(piece) for name, piece in reasoning.items() if piece}
        for name, piece in pieces.items():
            self._output_bytes += len(piece.encode())
            self._reasoning.setdefault(name, []).append(piece)
        if pieces and self._call.stream_reasoning:
            parts.append(ReasoningDelta(next(iter(pieces.values()))))

    def _tool_call(self, piece: CallPiece, parts: list[ContentDelta]) -> None:
        for part in self._calls.take(piece):
            self._output_bytes += len(part.arguments_delta.encode())
            parts.append(part)


def _is_other(choice: ChunkChoice) -> bool:
    return choice.index != 0


def _choices(value: object) -> Sequence[Any]:
    """Returns choices of any type, the one with index 0 first."""
    if not isinstance(value, list):
        return [value] if value else []
    return sorted(value, key=lambda choice: isinstance(choice, Mapping) and choice.get("index", 0) != 0)


def _piece(body: ToolCallBody) -> CallPiece:
    function = body.function
    if function is None:
        return CallPiece(body.index, body.id or None, None, "")
    return CallPiece(body.index, body.id or None, function.name, function.arguments or "")
