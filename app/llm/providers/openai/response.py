"""The whole answer to POST /v1/chat/completions, and the answer to /v1/embeddings.

Compatible servers leave out finish reasons, usage and the ids of tool calls. If one of them is derived from the rest, a note
says so.
"""

from __future__ import annotations

import binascii
import math
import os
from array import array
from collections.abc import Mapping
from typing import Any

import msgspec

from app.domain.errors import FailureKind, ProviderError
from app.domain.usage import TokenUsage
from app.llm.failures import error_words, stream_failure, tells_failure
from app.llm.messages import FinishReason, Json, ModelCall, ToolCall
from app.llm.providers.answers import BILLED_WITHOUT_WORDS, UNKNOWN_FINISH, CallIds, WholeAnswer
from app.llm.providers.openai.content import ODD_FIELD, CallPiece, MessageParts, first_choice, read_message
from app.llm.providers.openai.request import REASONING_FORMAT
from app.llm.providers.unsupported import Notes
from app.llm.providers.usage_figures import Figures, openai_figures, openai_figures_of
from app.llm.providers.usage_mapping import answer_bytes, openai_usage
from app.llm.providers.wire_text import REPAIRED, Malformed, clean, decode, read_object, word

_FINISHED = {
    "stop": FinishReason.STOP,
    "eos": FinishReason.STOP,
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "model_length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "tool_use": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
    "safety": FinishReason.CONTENT_FILTER,
    "recitation": FinishReason.CONTENT_FILTER,
    "sensitive": FinishReason.CONTENT_FILTER,
}
"""Includes the names of compatible servers: Together, Mistral, Gemini, Z.ai, and gateways to Anthropic's models."""
_BROKEN_OFF = {
    "abort": FailureKind.TRUNCATED,
    "error": FailureKind.SERVER_ERROR,
    "insufficient_system_resource": FailureKind.OVERLOADED,
    "network_error": FailureKind.SERVER_ERROR,
}
"""Finish reasons of compatible servers which mean that the answer is not whole: SGLang, OpenRouter, DeepSeek, Z.ai."""
WITHOUT_WORDS = {
    *_BROKEN_OFF,
    *(name for name, reason in _FINISHED.items() if reason in {FinishReason.LENGTH, FinishReason.CONTENT_FILTER}),
}


class EmbeddingBody(msgspec.Struct, gc=False):
    embedding: str | list[float]
    index: Any = None


class EmbeddingsBody(msgspec.Struct, gc=False):
    data: list[EmbeddingBody]
    model: Any = None
    usage: Any = None


_EMBEDDINGS = msgspec.json.Decoder(EmbeddingsBody)
_SILENT_TOKENS = 8
"""Even an answer without words may use as many tokens: they only end it."""


def read_answer(raw: bytes, call: ModelCall, notes: Notes) -> WholeAnswer:
    """Raises Malformed, and ProviderError for an error body or for a finish reason which says that the answer is not whole."""
    body, is_repaired = read_object(raw)
    if is_repaired:
        notes.add(REPAIRED)
    choice = first_choice(body.get("choices"))
    figures = openai_figures_of(body, notes)
    if choice is None:
        if body.get("error") or (not figures and (tells_failure(body) or error_words(body).message is not None)):
            raise _billed_failure(body, body, call)
        raise Malformed
    finish = finish_word(choice.get("finish_reason"))
    if is_repaired and finish is None and "message" not in choice and "delta" in choice:  # the first of several events
        raise Malformed
    if choice.get("error") and finish in {None, "error"}:
        raise _billed_failure(choice, body, call)
    parts = read_message(_message(choice, finish), notes)
    if parts.text is None and figures.output != 0:
        require_words(parts, finish, silent_tokens=-1, figures=figures)
    _leave_nameless_calls_out(parts, notes)
    ids = CallIds(notes, new_tool_call_id)
    tool_calls = tuple(_tool_call(piece, ids) for piece in parts.calls)
    output_bytes = answer_bytes(parts.text or parts.refusal, tool_calls) + sum(
        len(text.encode()) for text in parts.reasoning.values()
    )
    return build_answer(
        parts.text,
        parts.refusal,
        tool_calls,
        reasoning=parts.reasoning,
        fields=parts.fields,
        call_fields={made.id: piece.fields for made, piece in zip(tool_calls, parts.calls, strict=True)},
        finish=finish,
        usage=openai_usage(figures, call, output_bytes, body.get("service_tier"), notes),
        model=word(body.get("model")) or call.model,
        notes=notes,
    )


def read_billed(body: Mapping[str, object], call: ModelCall, output_bytes: int) -> TokenUsage | None:
    """Returns what an unusable answer says that it cost. Figures that are all zero say nothing."""
    figures = openai_figures_of(body)
    return openai_usage(figures, call, output_bytes, body.get("service_tier")) if figures.is_billed else None


def _billed_failure(said: Mapping[str, object], body: Mapping[str, object], call: ModelCall) -> ProviderError:
    failure = stream_failure(said, None)
    failure.usage = read_billed(body, call, 0)
    return failure


def require_words(parts: MessageParts, finish: str | None, *, figures: Figures, silent_tokens: int = _SILENT_TOKENS) -> None:
    """Raises Malformed if an answer has ended normally, was billed for words, and has no words that can be read."""
    shown = (figures.output or 0) - (figures.reasoning or 0)
    if parts.is_empty and finish not in WITHOUT_WORDS and (shown > silent_tokens or not figures):
        raise Malformed


def finish_word(value: object) -> str | None:
    """In lower case, because some servers write finish reasons in capitals."""
    found = word(value)
    return None if found is None else found.lower()


def _message(choice: Mapping[str, object], finish: str | None) -> Mapping[str, object]:
    for name in ("message", "delta"):
        message = choice.get(name)
        if isinstance(message, Mapping):
            return message
    text = choice.get("text", choice.get("message"))
    if isinstance(text, str):
        return {"content": text}
    if finish in WITHOUT_WORDS:
        return {}
    raise Malformed


def build_answer(
    text: str | None,
    refusal: str | None,
    tool_calls: tuple[ToolCall, ...],
    *,
    reasoning: Mapping[str, str],
    fields: Mapping[str, object],
    call_fields: Mapping[str, Mapping[str, object]],
    finish: str | None,
    usage: TokenUsage,
    model: str,
    notes: Notes,
) -> WholeAnswer:
    """If a model refuses in `refusal`, these words are the answer's text."""
    if finish in _BROKEN_OFF:
        raise ProviderError(_BROKEN_OFF[finish], status_code=200, usage=usage)
    finished = _FINISHED.get(finish or "")
    if finished is None:
        notes.add(UNKNOWN_FINISH)
    if finished in {None, FinishReason.STOP, FinishReason.TOOL_CALLS}:
        finished = FinishReason.TOOL_CALLS if tool_calls else FinishReason.STOP
    has_words = text or refusal or tool_calls or reasoning
    if not has_words and finish not in WITHOUT_WORDS and usage.visible_output_tokens > _SILENT_TOKENS:
        notes.add(BILLED_WITHOUT_WORDS)
    if refusal:
        text, finished = refusal, FinishReason.CONTENT_FILTER
    kept: Json = None
    if reasoning:
        kept = {"format": REASONING_FORMAT, **{name: clean(thought) for name, thought in reasoning.items()}}
    return WholeAnswer(
        clean(text) if text is not None else None, tool_calls, kept, finished, usage, clean(model), fields, call_fields
    )


def new_tool_call_id() -> str:
    return f"call_{os.urandom(12).hex()}"


def _leave_nameless_calls_out(parts: MessageParts, notes: Notes) -> None:
    """A call without a name calls nothing. If there is text, the call is ignored. Raises Malformed if there is no text."""
    named = [piece for piece in parts.calls if piece.name is not None]
    if len(named) < len(parts.calls):
        if not parts.text:
            raise Malformed
        notes.add(ODD_FIELD)
        parts.calls = named


def _tool_call(piece: CallPiece, ids: CallIds) -> ToolCall:
    if piece.name is None:
        raise Malformed
    return ToolCall(ids.distinct(piece.id), clean(piece.name), clean(piece.arguments) or "{}")


def read_embeddings(raw: bytes, count: int) -> tuple[tuple[tuple[float, ...], ...], Figures, str | None]:
    """Returns vectors in the order of the texts, usage and model. Raises Malformed, also if the number of vectors is not
    `count`, and ProviderError for an error body."""
    body = _embeddings_body(raw)
    rows = sorted(enumerate(body.data), key=lambda row: _place(row[0], row[1].index))
    vectors = tuple(_vector(row.embedding) for _, row in rows)
    if len(vectors) != count or not all(vectors):
        raise Malformed
    figures = openai_figures(body.usage)
    return vectors, figures if figures.is_billed else openai_figures_of(read_object(raw)[0]), word(body.model)


def _embeddings_body(raw: bytes) -> EmbeddingsBody:
    try:
        return decode(_EMBEDDINGS, raw)
    except Malformed:
        found, _ = read_object(raw)
    if not found.get("data") and tells_failure(found):
        raise stream_failure(found, None)
    try:
        return msgspec.convert(found, EmbeddingsBody)
    except msgspec.ValidationError:
        raise Malformed from None


def _place(place: int, index: object) -> int:
    return index if isinstance(index, int) else place


def _vector(embedding: str | list[float]) -> tuple[float, ...]:
    """Reads base64 of little-endian 32-bit floats, or plain numbers."""
    if isinstance(embedding, str):
        try:
            values = tuple(array("f", binascii.a2b_base64(embedding, strict_mode=True)))
        except ValueError:
            raise Malformed from None
    else:
        values = tuple(embedding)
    if not math.isfinite(sum(values)) and not all(map(math.isfinite, values)):  # a finite sum, the quick test, has finite parts
        raise Malformed
    return values
