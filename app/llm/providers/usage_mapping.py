"""What a provider's figures mean, as disjoint classes of tokens, and what is assumed if there are none.

Anthropic counts cached and cache-writing tokens beside `input_tokens`; OpenAI counts them inside `prompt_tokens`. Both count
reasoning inside the output. A figure is confirmed only if the provider gave it. For an answer with words, a missing figure or a
zero is no figure, and an estimate replaces it.

Each server that differs does so in its own way, so one rule reconciles the totals and parts of OpenAI's protocol:

1. If a total is the sum of its parts, it is right. A detail that is larger than its part is cut to the part.
2. A larger total is explained by the reasoning tokens, the cached tokens, or both. If neither explains it, the rest is output
   that was not counted (thoughts), as long as the call's cap allows it.
3. If there is no total, a detail that is larger than its part is added to it.
4. If a total is smaller, it leaves something out, and the parts are billed. A part that this call cannot have is derived from
   the total.
5. If there is only a total, it is right as a whole. It is divided like the estimates of input and output, and unconfirmed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from math import ceil
from typing import TypeAlias

import msgspec

from app.domain.usage import ServiceTier, TokenUsage
from app.llm.messages import EmbedCall, ModelCall, Text, ToolCall
from app.llm.providers.sse import EVENT_FIELDS
from app.llm.providers.unsupported import Notes
from app.llm.providers.usage_figures import Figures, figures_in_pieces, openai_figures_of
from app.llm.providers.wire_text import Malformed, is_text, read_object

BYTES_PER_TOKEN = 4
ReadBilled: TypeAlias = Callable[[Mapping[str, object], ModelCall, int], TokenUsage | None]
MAX_TOKENS_PER_SECOND = 1000
"""Few models are faster."""
MAX_WINDOW = 10_000_000
"""Tokens."""
TOTAL_ALONE = "The provider counted input and output only as one; how they share it is an estimate."
UNLIKELY_FIGURE = "A usage figure that this call cannot have was replaced by an estimate."
_MESSAGE_OVERHEAD = 4
_IMAGE_TOKENS = 1000
_TIERS = {tier.value: tier for tier in ServiceTier}


@dataclasses.dataclass(frozen=True, slots=True)
class _Reconciled:
    """Inclusive counts. None if the provider gave none that is possible for this call."""

    input: int | None
    output: int | None
    is_divided: bool = False


def anthropic_usage(figures: Figures, call: ModelCall, output_bytes: int, notes: Notes | None = None) -> TokenUsage:
    """Input + cache reads + cache writes + output, as the provider reports each."""
    written = figures.written
    if written is None:
        written = (figures.written_5m or 0) + (figures.written_1h or 0)
    written_1h = min(figures.written_1h or 0, written)
    cached = figures.cached or 0
    given = (figures.input or 0) + cached + written
    found = _reconciled(dataclasses.replace(figures, input=given, cached=None, written=None, reasoning=None), call, output_bytes)
    tier = _tier(figures.service_tier)
    tier = _tier(figures.speed) if tier is ServiceTier.STANDARD else tier
    if found.input is None:
        cached = written = written_1h = 0
    usage = _usage(found, figures, call, output_bytes, notes)
    cached = min(cached, usage.input_tokens)
    written = min(written, usage.input_tokens - cached)
    written_1h = min(written_1h, written)
    return dataclasses.replace(
        usage,
        uncached_input_tokens=usage.input_tokens - cached - written,
        cached_input_tokens=cached,
        cache_write_5m_tokens=written - written_1h,
        cache_write_1h_tokens=written_1h,
        service_tier=tier,
    )


def openai_usage(
    figures: Figures, call: ModelCall, output_bytes: int, service_tier: object = None, notes: Notes | None = None
) -> TokenUsage:
    """`service_tier` is what the answer says beside its usage."""
    usage = _usage(_reconciled(figures, call, output_bytes), figures, call, output_bytes, notes)
    cached = min(figures.cached or 0, usage.input_tokens)
    written = min(figures.written or 0, usage.input_tokens - cached)
    return dataclasses.replace(
        usage,
        uncached_input_tokens=usage.input_tokens - cached - written,
        cached_input_tokens=cached,
        cache_write_5m_tokens=written,
        service_tier=_tier(service_tier),
    )


def embedding_usage(figures: Figures, call: EmbedCall) -> TokenUsage:
    """Vectors have no output, so the larger of input and total is the input."""
    tokens = max(figures.input or 0, figures.total or 0)
    return TokenUsage(uncached_input_tokens=tokens) if tokens else estimated_embedding_usage(call)


def _usage(found: _Reconciled, figures: Figures, call: ModelCall, output_bytes: int, notes: Notes | None) -> TokenUsage:
    """The provider's figures. A missing one is replaced by an estimate. All input counts as uncached here."""
    estimate = estimated_usage(call, output_bytes)
    is_known = bool(found.input) and found.output is not None and (found.output > 0 or not output_bytes)
    if notes is not None and found.is_divided:
        notes.add(TOTAL_ALONE)
    elif notes is not None and _is_left_out(figures, found):
        notes.add(UNLIKELY_FIGURE)
    output = found.output or estimate.output_tokens
    reasoning = min(figures.reasoning or 0, output)
    return TokenUsage(
        uncached_input_tokens=found.input or estimate.input_tokens,
        visible_output_tokens=output - reasoning,
        reasoning_tokens=reasoning,
        confirmed=is_known and not found.is_divided,
    )


def _reconciled(figures: Figures, call: ModelCall, output_bytes: int) -> _Reconciled:
    given, made, total = figures.input or None, figures.output, figures.total
    if not total:
        return _possible(_with_details_beside(figures), call)
    if not made and output_bytes:
        made = None
    if given is None and not made:
        return _divided(total, call, output_bytes)
    if given is None or made is None:
        given = _rest(total, made) if given is None else given
        made = _rest(total, given) if made is None else made
        return _possible(_Reconciled(given, made), call)
    if total == given + made:
        return _Reconciled(given, made)
    if total > given + made:
        return _possible(_explained(figures, given, made, total - given - made, call), call)
    return _possible(_Reconciled(given, made), call, total)


def _divided(total: int, call: ModelCall, output_bytes: int) -> _Reconciled:
    estimate = estimated_usage(call, output_bytes)
    made = total * estimate.output_tokens // (estimate.input_tokens + estimate.output_tokens)
    made = max(made, 1) if output_bytes and total > 1 else made
    is_possible = _can_be_input(total - made, call, in_doubt=True) and _can_be_output(made, call)
    return _Reconciled(total - made, made, is_divided=True) if is_possible else _Reconciled(None, None)


def _with_details_beside(figures: Figures) -> _Reconciled:
    given, made = figures.input, figures.output
    if given and (figures.cached or 0) > given:
        given += figures.cached or 0
    if made and (figures.reasoning or 0) > made:
        made += figures.reasoning or 0
    return _Reconciled(given, made)


def _explained(figures: Figures, given: int, made: int, excess: int, call: ModelCall) -> _Reconciled:
    cached, reasoning = (figures.cached or 0) + (figures.written or 0), figures.reasoning or 0
    if excess == reasoning:
        return _Reconciled(given, made + reasoning)
    if excess == cached:
        return _Reconciled(given + cached, made)
    if excess == cached + reasoning:
        return _Reconciled(given + cached, made + reasoning)
    return _Reconciled(given, made + excess if made + excess <= call.max_output_tokens else made)


def _possible(found: _Reconciled, call: ModelCall, total: int = 0) -> _Reconciled:
    """Removes counts that are impossible for this call. A removed count is replaced by what the total leaves for it, if that is
    possible."""
    given, made = found.input, found.output
    if given is not None and not _can_be_input(given, call, in_doubt=total > 0):
        rest = _rest(total, made)
        given = rest if rest and _can_be_input(rest, call, in_doubt=True) else None
    if made is not None and not _can_be_output(made, call):
        rest = _rest(total, given)
        made = rest if rest and _can_be_output(rest, call) else None
    return _Reconciled(given, made)


def _can_be_input(tokens: int, call: ModelCall, *, in_doubt: bool) -> bool:
    """Counts differ between tokenizers, images and templates, but not by a factor of twenty. If nothing contradicts a count, it
    is believed up to the largest window of any model."""
    return tokens <= (20 * (estimated_usage(call, 0).input_tokens + 1000) if in_doubt else MAX_WINDOW)


def _can_be_output(tokens: int, call: ModelCall) -> bool:
    """Some servers count reasoning beyond the cap."""
    return tokens <= 2 * call.max_output_tokens + 1000


def _is_left_out(figures: Figures, found: _Reconciled) -> bool:
    given = figures.input or (figures.total if figures.output is None else None)
    return bool((given and not found.input) or (figures.output and not found.output))


def _rest(total: int, part: int | None) -> int | None:
    return total - part if part is not None and total > part else None


def _tier(name: object) -> ServiceTier:
    """Names without prices of their own, such as `default` and `scale`, have the standard price."""
    return _TIERS.get(name, ServiceTier.STANDARD) if isinstance(name, str) else ServiceTier.STANDARD


def estimated_usage(call: ModelCall, output_bytes: int) -> TokenUsage:
    """An estimate without figures of the provider: the counted input, or else one token per four bytes of UTF-8, as for the
    output. `confirmed` is False."""
    counted = call.input_tokens or _estimated_input(call)
    return TokenUsage(uncached_input_tokens=counted, visible_output_tokens=_ceil(output_bytes), confirmed=False)


def unanswered_usage(call: ModelCall, waited_seconds: float) -> TokenUsage:
    """Assumes, for a whole answer that never began, as much output as is possible in that time."""
    made = min(call.max_output_tokens, ceil(waited_seconds * MAX_TOKENS_PER_SECOND))
    return estimated_usage(call, BYTES_PER_TOKEN * made)


def received_usage(call: ModelCall, received: bytes, seconds: float) -> TokenUsage:
    """Assumes, for an answer that broke off, the output that was received, and no more than is possible in that time."""
    made = min(call.max_output_tokens, _ceil(len(received.strip())), ceil(seconds * MAX_TOKENS_PER_SECOND))
    return estimated_usage(call, BYTES_PER_TOKEN * made)


def salvaged_usage(raw: bytes, call: ModelCall, seconds: float, read: ReadBilled, *, is_cut: bool = False) -> TokenUsage | None:
    """Assumes a usage for a body with status 200 that cannot be used: its own figures, also those of a broken body, else what
    was received. If a body broke off (`is_cut`) before its first byte, that is the input. Returns None for an error, and for a
    page or a text of a proxy between us and the provider: that is no answer and cost nothing."""
    try:
        body, _ = read_object(raw)
    except Malformed:
        if not (is_cut if not raw.strip() else _is_of_an_answer(raw)):
            return None
        body = {"usage": figures_in_pieces(raw)}
    known = read(body, call, min(len(raw), BYTES_PER_TOKEN * call.max_output_tokens))
    if known is not None:
        return known
    return None if body.get("error") else received_usage(call, raw, seconds)


def _is_of_an_answer(raw: bytes) -> bool:
    """Whether the body is a part of an object or of events, or no text at all."""
    begin = raw.lstrip()
    if begin.startswith(b"<"):
        return False
    return begin.startswith((b"{", *EVENT_FIELDS)) or not is_text(raw)


def answer_bytes(text: str | None, tool_calls: Iterable[ToolCall]) -> int:
    return len((text or "").encode()) + sum(len(made.name) + len(made.arguments.encode()) for made in tool_calls)


def salvaged_embedding_usage(raw: bytes, call: EmbedCall, *, is_cut: bool = False) -> TokenUsage | None:
    """Does what `salvaged_usage` does, for vectors that cannot be used."""
    try:
        body, _ = read_object(raw)
    except Malformed:
        if not (is_cut if not raw.strip() else _is_of_an_answer(raw)):
            return None
        body = {"usage": figures_in_pieces(raw)}
    figures = openai_figures_of(body)
    return None if body.get("error") and not figures.is_billed else embedding_usage(figures, call)


def estimated_embedding_usage(call: EmbedCall) -> TokenUsage:
    return TokenUsage(uncached_input_tokens=sum(_ceil(len(text.encode())) for text in call.texts), confirmed=False)


def _estimated_input(call: ModelCall) -> int:
    size = sum(len(msgspec.json.encode(tool)) for tool in call.tools)
    images = 0
    for message in call.messages:
        for part in message.parts:
            if isinstance(part, Text):
                size += len(part.text.encode())
            else:
                images += 1
        size += sum(len(made.arguments.encode()) + len(made.name) for made in message.tool_calls)
        size += len(message.tool_result.content.encode()) if message.tool_result is not None else 0
    return _ceil(size) + _MESSAGE_OVERHEAD * len(call.messages) + _IMAGE_TOKENS * images


def _ceil(size: int) -> int:
    return -(-size // BYTES_PER_TOKEN)
