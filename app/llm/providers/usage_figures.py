"""Token counts in a provider's answer. They are read one by one, so that one wrong detail spoils no other.

Unknown is None, never zero: null, absent, a negative number, a list or an object is no figure. A number as text is a figure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

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
_HOLDER = re.compile(r"usage|meta|token|bill|metric|timing|stat|^x_", re.IGNORECASE)
_AROUND = frozenset({"choices", "message", "delta", "response", "result", "data", "error"})
_MAX_BLOCKS = 50
_MAX_DEPTH = 5
_MAX_BLOCK_BYTES = 4000
_NAMES = "|".join(
    (*_INPUT, *_OUTPUT, *_TOTAL, "cached_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
).encode()
_COUNT = re.compile(rb'"(%b)"\s*:\s*"?([0-9]{1,18})' % _NAMES)


@dataclass(frozen=True, slots=True)
class Figures:
    """In OpenAI's protocol, `input` includes cached and written tokens. In Anthropic's it does not."""

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
        """Whether there is any count."""
        return any(isinstance(getattr(self, field.name), int) for field in fields(self))

    @property
    def is_billed(self) -> bool:
        """Whether any count of the input, the output or both is above zero."""
        return bool(self.input or self.output or self.total)


def count(value: object) -> int | None:
    """Returns a whole number from 0 to 2^31 - 1, also from text; None for anything else."""
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
    """Servers with Anthropic's protocol may still count in OpenAI's words. Then cached tokens are inside the input."""
    named = block if isinstance(block, Mapping) else {}
    found = Figures(
        input=_first(block, ("input_tokens",), notes),
        output=_first(block, ("output_tokens",), notes),
        total=_first(block, _TOTAL, notes),
        cached=_first(block, ("cache_read_input_tokens",), notes),
        written=_first(block, ("cache_creation_input_tokens",), notes),
        written_5m=_first(block, ("cache_creation.ephemeral_5m_input_tokens",), notes),
        written_1h=_first(block, ("cache_creation.ephemeral_1h_input_tokens",), notes),
        reasoning=_first(block, ("output_tokens_details.thinking_tokens",), notes),
        service_tier=named.get("service_tier"),
        speed=named.get("speed"),
    )
    if found.input is not None or found.output is not None:
        return found
    other = openai_figures(block)
    if other.input is None and other.output is None:
        return found
    beside = None if other.input is None else max(0, other.input - (other.cached or 0) - (other.written or 0))
    return replace(other, input=beside, service_tier=found.service_tier, speed=found.speed)


def merged(first: Figures, later: Figures) -> Figures:
    """Merges field by field. `later` is cumulative and replaces `first`, but a missing figure or a zero replaces nothing."""
    return Figures(*(getattr(later, field.name) or getattr(first, field.name) for field in fields(Figures)))


def usage_blocks(body: Mapping[str, object], notes: Notes | None = None) -> Iterator[Mapping[str, object]]:
    """Yields every place of a body or an event in which servers put their usage: fields that are named after it, at any depth,
    also in a list, in the first choice, in its message or delta, or around the answer. Outer places come first. The body itself
    comes last, for servers that have no such block (Ollama, llama.cpp)."""
    level: list[Mapping[str, object]] = [body]
    seen = 0
    for _ in range(_MAX_DEPTH):
        level = [inner for block in level for inner in _inner_blocks(block, notes)][: _MAX_BLOCKS - seen]
        seen += len(level)
        yield from level
    yield body


def _inner_blocks(block: Mapping[str, object], notes: Notes | None) -> Iterator[Mapping[str, object]]:
    for name in sorted(block, key=lambda name: name != "usage"):
        value = block[name]
        if name in _AROUND:
            yield from _mappings(value)[:1]
        elif _HOLDER.search(name):
            found = _mappings(value)
            if name == "usage" and value and not found and notes is not None:
                notes.add(ODD_DETAIL)
            yield from found


def _mappings(value: object, depth: int = 0) -> list[Mapping[str, object]]:
    """Returns the object, or the objects in a list, also in a list inside it."""
    if isinstance(value, Mapping):
        return [value]
    if not isinstance(value, list) or depth > 1:
        return []
    return [found for each in value[:_MAX_BLOCKS] for found in _mappings(each, depth + 1)]


def openai_figures_of(body: Mapping[str, object], notes: Notes | None = None) -> Figures:
    """Returns the figures of a whole answer or of an event, wherever they are."""
    return _best([openai_figures(block, notes) for block in usage_blocks(body, notes)])


def anthropic_figures_of(body: Mapping[str, object], notes: Notes | None = None) -> Figures:
    """Does the same for Anthropic's protocol."""
    return _best([anthropic_figures(block, notes) for block in usage_blocks(body, notes)])


def counts_of(body: Mapping[str, object]) -> Mapping[str, object]:
    """Returns the usage of a body that must not be kept otherwise; empty if it has none."""
    found = next((block for block in usage_blocks(body) if openai_figures(block).is_billed), None)
    return {} if found is None else {"usage": _counts(found)}


def _counts(block: Mapping[str, object]) -> Mapping[str, object]:
    inner = {name: _counts(value) if isinstance(value, Mapping) else count(value) for name, value in block.items()}
    return {name: value for name, value in inner.items() if value}


def may_have_figures(payload: bytes) -> bool:
    """Whether an event may have figures. It is a quick test that no event with figures fails."""
    return (b"oken" in payload or b"eval_" in payload or b'_n"' in payload) and _COUNT.search(payload) is not None


def _best(found: Sequence[Figures]) -> Figures:
    """Returns the first block with input and output, else the first with any figure above zero, else the first with any."""
    for is_good in (lambda each: each.input and each.output, lambda each: each.is_billed, bool):
        for each in found:
            if is_good(each):
                return each
    return Figures()


def figures_in_pieces(raw: bytes) -> Mapping[str, object] | None:
    """Returns the usage of a body that is not complete JSON: its last block if that block is complete, else the counts that can
    be read."""
    for name in (b'"usage"', b'"usageMetadata"', b'"usage_metadata"'):
        place = raw.rfind(name)
        start = raw.find(b"{", place) if place >= 0 else -1
        block = _block_at(raw[start : start + _MAX_BLOCK_BYTES]) if start >= 0 else None
        if block is not None:
            return block
    return {found[1].decode(): int(found[2]) for found in _COUNT.finditer(raw)} or None


def _block_at(raw: bytes) -> Mapping[str, object] | None:
    end = 0
    while (end := raw.find(b"}", end) + 1) > 0:
        try:
            found = msgspec.json.decode(raw[:end])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        return found if isinstance(found, Mapping) else None
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
