"""The answer to POST /v1/chat/completions, whole, and the one to /v1/embeddings.

Compatible servers leave out finish reasons, usage and the ids of tool calls; what is told from the rest is said in a note.
"""

from __future__ import annotations

import binascii
import math
import os
from array import array
from collections.abc import Mapping
from typing import Any

import msgspec

from app.errors import FailureKind, ProviderError
from app.llm.answers import UNKNOWN_FINISH, WholeAnswer
from app.llm.messages import FinishReason, Json, ModelCall, ToolCall
from app.llm.openai_request import REASONING_FIELDS, REASONING_FORMAT
from app.llm.unsupported import Notes
from app.llm.usage_mapping import OpenAIUsage, answer_bytes, estimated_usage, openai_usage
from app.llm.wire_text import Malformed, clean, decode
from app.usage import TokenUsage

_FINISHED = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}
_BROKEN_OFF = {"abort": FailureKind.TRUNCATED, "error": FailureKind.SERVER_ERROR}
"""Finish reasons of compatible servers that mean there is no whole answer."""


class Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class ToolCallBody(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: Function | None = None


class MessageBody(msgspec.Struct, gc=False):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCallBody] | None = None
    reasoning_content: str | None = None
    reasoning: Any = None


class Choice(msgspec.Struct, gc=False):
    message: MessageBody
    finish_reason: str | None = None


class CompletionBody(msgspec.Struct, gc=False):
    choices: list[Choice]
    model: str | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")
    service_tier: Any = None


class EmbeddingBody(msgspec.Struct, gc=False):
    embedding: str | list[float]
    index: int | None = None


class EmbeddingsBody(msgspec.Struct, gc=False):
    data: list[EmbeddingBody]
    model: str | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")


_COMPLETION = msgspec.json.Decoder(CompletionBody)
_EMBEDDINGS = msgspec.json.Decoder(EmbeddingsBody)
_USAGE: msgspec.json.Decoder[OpenAIUsage | None] = msgspec.json.Decoder(OpenAIUsage | None)


def read_usage(raw: bytes | msgspec.Raw) -> OpenAIUsage | None:
    """None where there is none that can be read; a billed answer is not lost for its figures."""
    if raw == b"null":
        return None
    try:
        usage = decode(_USAGE, bytes(raw))
    except Malformed:
        return None
    return usage if usage is not None and usage.prompt_tokens is not None else None


def billed(usage: OpenAIUsage | None, call: ModelCall, output_bytes: int, service_tier: object) -> TokenUsage:
    return openai_usage(usage, service_tier) if usage is not None else estimated_usage(call, output_bytes)


def read_answer(raw: bytes, call: ModelCall, notes: Notes) -> WholeAnswer:
    """Raises Malformed, and ProviderError where the finish reason says that the answer is not whole."""
    body = decode(_COMPLETION, raw)
    if not body.choices:
        raise Malformed
    message = body.choices[0].message
    tool_calls = tuple(map(_tool_call, message.tool_calls or ()))
    return build_answer(
        text=message.content,
        refusal=message.refusal,
        tool_calls=tool_calls,
        reasoning={name: value for name in REASONING_FIELDS if isinstance(value := getattr(message, name), str) and value},
        finish=body.choices[0].finish_reason,
        usage=billed(
            read_usage(body.usage), call, answer_bytes(message.content or message.refusal, tool_calls), body.service_tier
        ),
        model=body.model or call.model,
        notes=notes,
    )


def build_answer(
    *,
    text: str | None,
    refusal: str | None,
    tool_calls: tuple[ToolCall, ...],
    reasoning: Mapping[str, str],
    finish: str | None,
    usage: TokenUsage,
    model: str,
    notes: Notes,
) -> WholeAnswer:
    """A model that refuses in the words of `refusal` has given those instead of an answer."""
    if finish in _BROKEN_OFF:
        raise ProviderError(_BROKEN_OFF[finish], status_code=200, usage=usage)
    finished = _FINISHED.get(finish or "")
    if finished is None:
        notes.add(UNKNOWN_FINISH)
    if finished in {None, FinishReason.STOP, FinishReason.TOOL_CALLS}:
        finished = FinishReason.TOOL_CALLS if tool_calls else FinishReason.STOP
    if refusal:
        text, finished = refusal, FinishReason.CONTENT_FILTER
    kept: Json = {"format": REASONING_FORMAT, **reasoning} if reasoning else None
    return WholeAnswer(clean(text) if text is not None else None, tool_calls, kept, finished, usage, clean(model))


def new_tool_call_id() -> str:
    return f"call_{os.urandom(12).hex()}"


def arguments_text(arguments: str | dict[str, Any] | None) -> str:
    """Some servers send an object where the protocol has its JSON text."""
    if isinstance(arguments, dict):
        return msgspec.json.encode(arguments).decode()
    return clean(arguments or "")


def _tool_call(body: ToolCallBody) -> ToolCall:
    if body.function is None or not body.function.name:
        raise Malformed
    call_id = clean(body.id) if body.id else new_tool_call_id()
    return ToolCall(call_id, clean(body.function.name), arguments_text(body.function.arguments) or "{}")


def read_embeddings(raw: bytes, count: int) -> tuple[tuple[tuple[float, ...], ...], OpenAIUsage | None, str | None]:
    """Vectors in the order of the texts, usage and model. Raises Malformed, also where there are not `count` vectors."""
    body = decode(_EMBEDDINGS, raw)
    rows = sorted(enumerate(body.data), key=lambda row: row[0] if row[1].index is None else row[1].index)
    vectors = tuple(_vector(row.embedding) for _, row in rows)
    if len(vectors) != count or not all(vectors):
        raise Malformed
    return vectors, read_usage(body.usage), body.model


def _vector(embedding: str | list[float]) -> tuple[float, ...]:
    """Base64 of little-endian 32-bit floats, or plain numbers."""
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
