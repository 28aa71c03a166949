"""Anthropic's whole answer: content blocks, stop reason and usage."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import msgspec

from app.domain.usage import TokenUsage
from app.llm.failures import error_words, stream_failure, tells_failure
from app.llm.messages import FinishReason, Json, ModelCall, ToolCall
from app.llm.providers.answers import BILLED_WITHOUT_WORDS, UNKNOWN_FINISH, CallIds, WholeAnswer
from app.llm.providers.anthropic.request import CALL_FIELDS, JSON_TOOL, REASONING_FORMAT, TEXT_FIELDS
from app.llm.providers.opaque_fields import Fields, join, unknown_fields
from app.llm.providers.unsupported import Notes
from app.llm.providers.usage_figures import Figures, anthropic_figures_of
from app.llm.providers.usage_mapping import answer_bytes, anthropic_usage
from app.llm.providers.wire_text import REPAIRED, Malformed, clean, decode, fit, read_object, word

_FINISHED = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.CONTENT_FILTER,
}
_REASONING = {"thinking", "redacted_thinking"}
UNKNOWN_PART = "A part of the answer has an unknown type and was left out."
KEPT_PART = "A part of the answer has an unknown type. It is in providerState alone."


class _RawBlock(msgspec.Struct, gc=False):
    input: msgspec.Raw = msgspec.Raw(b"")


class _RawBody(msgspec.Struct, gc=False):
    content: list[_RawBlock]


_RAW_BODY = msgspec.json.Decoder(_RawBody)
_WITHOUT_WORDS = {"max_tokens", "model_context_window_exceeded", "refusal", "pause_turn"}
_SILENT_TOKENS = 8
"""Even an answer without words may use as many tokens: they only end it."""


class Content:
    """The content of an answer, collected block by block in the answer's order. Text blocks become one text. Reasoning blocks
    are kept unchanged, each with its place among the others."""

    def __init__(self, call: ModelCall, notes: Notes) -> None:
        self.ids = CallIds(notes, new_tool_use_id)
        self._notes = notes
        self._by_tool = call.response_format is not None
        self._model = call.model
        self.texts: list[str] = []
        self.tool_calls: list[ToolCall] = []
        self._reasoning: list[tuple[int, dict[str, Json]]] = []
        self._other_blocks: list[tuple[int, Mapping[str, object]]] = []
        self._call_fields: dict[str, Fields] = {}
        self._text_fields: Fields = {}

    def is_answer(self, tool_name: str) -> bool:
        """The tool that we added to get JSON."""
        return self._by_tool and tool_name == JSON_TOOL

    def keep_text_fields(self, block: Mapping[str, object]) -> None:
        """Text blocks are one text, with the fields of all of them."""
        join(self._text_fields, unknown_fields(block, TEXT_FIELDS))

    def add_tool_use(self, tool_id: str, name: str, arguments: str, block: Mapping[str, object]) -> None:
        if self.is_answer(name):
            self.texts = [arguments]
        else:
            self.tool_calls.append(ToolCall(tool_id, clean(name), clean(arguments)))
            self._call_fields[tool_id] = unknown_fields(block, CALL_FIELDS)

    def add_reasoning(self, block: dict[str, Json]) -> None:
        self._reasoning.append((self._place, fit(block)))

    def add_other(self, block: Mapping[str, object]) -> None:
        """Keeps a block of an unknown type, because the provider may need it back."""
        self._other_blocks.append((self._place, block))
        self._notes.add(KEPT_PART)

    @property
    def _place(self) -> int:
        """The place of the next block in the answer. All its texts are one block."""
        return len(self._reasoning) + len(self._other_blocks) + len(self.tool_calls) + bool(self.texts)

    @property
    def output_bytes(self) -> int:
        kept = sum(len(msgspec.json.encode(block)) for _, block in self._reasoning)
        return answer_bytes("".join(self.texts), self.tool_calls) + kept

    def require_words(self, stop_reason: str | None, figures: Figures) -> None:
        """Raises Malformed if an answer has ended normally, was billed for words, and has no words that can be read."""
        if self.texts or self.tool_calls or self._reasoning or stop_reason in _WITHOUT_WORDS:
            return
        if (figures.output or 0) > _SILENT_TOKENS or not figures:
            raise Malformed

    def whole(self, stop_reason: str | None, usage: TokenUsage, model: str, notes: Notes) -> WholeAnswer:
        """An answer through the tool that we added ends as STOP, because it calls no tool of the caller."""
        finished = _FINISHED.get(stop_reason or "")
        if finished is None:
            notes.add(UNKNOWN_FINISH)
        has_words = any(self.texts) or self.tool_calls or self._reasoning
        if not has_words and stop_reason not in _WITHOUT_WORDS and usage.visible_output_tokens > _SILENT_TOKENS:
            notes.add(BILLED_WITHOUT_WORDS)
        if finished in {None, FinishReason.TOOL_CALLS}:
            finished = FinishReason.TOOL_CALLS if self.tool_calls else FinishReason.STOP
        return WholeAnswer(
            text="".join(self.texts) if self.texts else None,
            tool_calls=tuple(self.tool_calls),
            reasoning=self._kept_reasoning(),
            finish_reason=finished,
            usage=usage,
            model=model,
            fields=unknown_fields({"blocks": self._other_blocks, "text": self._text_fields}, frozenset()),
            call_fields=self._call_fields,
        )

    def _kept_reasoning(self) -> Json:
        if not self._reasoning:
            return None
        return {"format": REASONING_FORMAT, "model": self._model, "blocks": [[place, block] for place, block in self._reasoning]}


def read_answer(raw: bytes, call: ModelCall, notes: Notes) -> WholeAnswer:
    """Raises Malformed, and ProviderError for an error body."""
    message, is_repaired = read_object(raw)
    if is_repaired:
        notes.add(REPAIRED)
    stop_reason = word(message.get("stop_reason"))
    figures = anthropic_figures_of(message, notes)
    if _is_error(message, figures):
        failure = stream_failure(message, None)
        failure.usage = read_billed(message, call, 0)
        raise failure
    content = Content(call, notes)
    written = _inputs(raw)
    for place, block in enumerate(_blocks(message.get("content"), stop_reason)):
        _add_block(content, block, written.get(place))
    content.require_words(stop_reason, figures)
    usage = anthropic_usage(figures, call, content.output_bytes, notes)
    return content.whole(stop_reason, usage, clean(word(message.get("model")) or call.model), notes)


def _is_error(message: Mapping[str, object], figures: Figures) -> bool:
    if message.get("type") == "error" or ("content" not in message and message.get("error")):
        return True
    is_reported = tells_failure(message) or error_words(message).message is not None
    return is_reported and not figures and "content" not in message


def read_billed(body: Mapping[str, object], call: ModelCall, output_bytes: int) -> TokenUsage | None:
    """Returns what an unusable answer says that it cost. Figures that are all zero say nothing."""
    figures = anthropic_figures_of(body)
    return anthropic_usage(figures, call, output_bytes) if figures.is_billed else None


def _blocks(content: object, stop_reason: str | None) -> Sequence[object]:
    if isinstance(content, list):
        return content
    if isinstance(content, (str, Mapping)):
        return (content,)
    if content is None and stop_reason in _WITHOUT_WORDS:
        return ()
    raise Malformed


def _inputs(raw: bytes) -> dict[int, str]:
    """The arguments of tool calls as they were written, keyed by the place of their block."""
    try:
        blocks = decode(_RAW_BODY, raw).content
    except Malformed:
        return {}
    return {
        place: bytes(block.input).decode("utf-8", "replace")
        for place, block in enumerate(blocks)
        if bytes(block.input)[:1] == b"{"
    }


def _add_block(content: Content, block: object, written: str | None) -> None:
    if block is None:
        return
    if isinstance(block, str):
        block = {"type": "text", "text": block}
    if not isinstance(block, Mapping):
        raise Malformed
    kind, text = block_kind(block), block.get("text")
    if kind in _REASONING:
        content.add_reasoning({**block, "type": kind})
    elif kind == "tool_use":
        name = word(block.get("name"))
        if name is None:
            raise Malformed
        content.add_tool_use(tool_use_id(content, block), name, written or tool_input(block.get("input")), block)
    elif isinstance(text, str):
        content.texts.append(clean(text))
        content.keep_text_fields(block)
    elif kind is None or (kind == "text" and text is not None):
        raise Malformed
    elif kind != "text":
        content.add_other(block)


def block_kind(block: Mapping[str, object]) -> str | None:
    """Returns the block's kind. A block that does not name its kind is known by its fields; None if it is not."""
    kind = word(block.get("type"))
    if kind is not None:
        return kind
    if "text" in block:
        return "text"
    if "input" in block and "name" in block:
        return "tool_use"
    return "thinking" if isinstance(block.get("thinking"), str) else None


def tool_input(value: object) -> str:
    """JSON text, as it is sent on."""
    if isinstance(value, str):
        return value or "{}"
    return "{}" if value is None else msgspec.json.encode(value).decode()


def tool_use_id(content: Content, block: Mapping[str, object]) -> str:
    given = block.get("id")
    return content.ids.distinct(str(given) if given else None)


def new_tool_use_id() -> str:
    return f"toolu_{os.urandom(12).hex()}"
