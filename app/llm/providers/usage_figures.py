"""Counts of tokens as they stand in a provider's answer, read one by one: a detail that is odd costs itself alone.

Unknown is None, never zero: null, absent, negative, a list or an object is no figure. A count as text is one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import msgspec

from app.llm.providers.unsupported import Notes

MAX_COUNT = 2**31 - 1
ODD_DETAIL = "A detail of the provider's usage figures could not be read and was left out."

_INPUT = (
    "prompt_tokens",
    "input_tokens",
    "promptTokenCount",
    "inputTokens",
    "inputTokenCount",
    "prompt_eval_count",
    "prompt_n",
    "tokens_evaluated",
)
_OUTPUT = (
    "completion_tokens",
    "output_tokens",
    "candidatesTokenCount",
    "outputTokens",
    "outputTokenCount",
    "eval_count",
    "predicted_n",
    "tokens_predicted",
)
_TOTAL = ("total_tokens", "totalTokenCount", "totalTokens")
_CACHED = (
    "prompt_tokens_details.cached_tokens",
    "input_tokens_details.cached_tokens",
    "prompt_cache_hit_tokens",
    "cached_tokens",
    "cache_read_input_tokens",
    "cachedContentTokenCount",
)
_WRITTEN = (
    "prompt_tokens_details.cache_write_tokens",
    "prompt_tokens_details.cache_creation_tokens",
    "cache_creation_input_tokens",
)
_REASONING = (
    "completion_tokens_details.reasoning_tokens",
    "output_tokens_details.reasoning_tokens",
    "reasoning_tokens",
    "thoughtsTokenCount",
)
_VENDOR_BLOCKS = (
    "usage",
    "usage.tokens",
    "x_groq.usage",
    "usageMetadata",
    "usage_metadata",
    "meta.usage",
    "meta.tokens",
    "amazon-bedrock-invocationMetrics",
    "timings",
)


@dataclass(frozen=True, slots=True)
class Figures:
    """`input` has cached and written tokens inside for OpenAI's protocol, and beside it for Anthropic's."""

    input: int | None = None
    output: int | None = None
    total: int | None = None
    cached: int | None = None
    written: int | None = None
    written_5m: int | None = None
    written_1h: int | None = None
    reasoning: int | None = None
    service_tier: object = None
    speed: object = None

    def __bool__(self) -> bool:
        """Whether there is any count at all."""
        return any(isinstance(getattr(self, field.name), int) for field in fields(self))


def count(value: object) -> int | None:
    """A whole number from 0 to 2^31 - 1, also as text; None for anything that is no such number."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        return None
    return int(min(value, MAX_COUNT))


def openai_figures(block: object, notes: Notes | None = None) -> Figures:
    return Figures(
        input=_first(block, _INPUT, notes),
        output=_first(block, _OUTPUT, notes),
        total=_first(block, _TOTAL, notes),
        cached=_first(block, _CACHED, notes),
        written=_first(block, _WRITTEN, notes),
        reasoning=_first(block, _REASONING, notes),
    )


def anthropic_figures(block: object, notes: Notes | None = None) -> Figures:
    named = block if isinstance(block, Mapping) else {}
    return Figures(
        input=_first(block, ("input_tokens",), notes),
        output=_first(block, ("output_tokens",), notes),
        cached=_first(block, ("cache_read_input_tokens",), notes),
        written=_first(block, ("cache_creation_input_tokens",), notes),
        written_5m=_first(block, ("cache_creation.ephemeral_5m_input_tokens",), notes),
        written_1h=_first(block, ("cache_creation.ephemeral_1h_input_tokens",), notes),
        reasoning=_first(block, ("output_tokens_details.thinking_tokens",), notes),
        service_tier=named.get("service_tier"),
        speed=named.get("speed"),
    )


def merged(first: Figures, later: Figures) -> Figures:
    """Field by field: `later` is cumulative and replaces, but neither nothing nor a zero replaces a figure."""
    return Figures(*(getattr(later, field.name) or getattr(first, field.name) for field in fields(Figures)))


def usage_blocks(body: Mapping[str, object]) -> Iterator[object]:
    """Where servers put their usage: beside the choices, in the first of them, in fields of their own, or in none (Ollama,
    llama.cpp). A list of one block is that block."""
    for path in _VENDOR_BLOCKS:
        found = _at(body, path)
        if found is not None:
            yield found[0] if isinstance(found, list) and len(found) == 1 else found
    choices = body.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        yield choices[0].get("usage")
        yield _at(choices[0], "message.usage")
    yield body


def openai_figures_of(body: Mapping[str, object], notes: Notes | None = None) -> Figures:
    """The first block that has a figure above zero, else the first that has any."""
    found = [figures for block in usage_blocks(body) if (figures := openai_figures(block, notes))]
    return next((each for each in found if each.input or each.output or each.total), found[0] if found else Figures())


def figures_in_pieces(raw: bytes, name: bytes = b'"usage"') -> object:
    """The usage block of a body that is no whole JSON, where that block itself is whole; else None."""
    place = raw.rfind(name)
    start = raw.find(b"{", place) if place >= 0 else -1
    end = start
    while start >= 0 and (end := raw.find(b"}", end + 1)) >= 0 and end - start < 4000:
        try:
            return msgspec.json.decode(raw[start : end + 1])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
    return None


def _first(block: object, paths: tuple[str, ...], notes: Notes | None) -> int | None:
    for path in paths:
        value = _at(block, path, notes)
        found = count(value)
        if found is not None:
            return found
        if value is not None and notes is not None:
            notes.add(ODD_DETAIL)
    return None


def _at(block: object, path: str, notes: Notes | None = None) -> object:
    for name in path.split("."):
        if block is None:
            return None
        if not isinstance(block, Mapping):
            if notes is not None:
                notes.add(ODD_DETAIL)
            return None
        block = block.get(name)
    return block
