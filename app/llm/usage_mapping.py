"""Usage blocks of both wire protocols, as disjoint classes of tokens.

Anthropic counts cached and cache-writing tokens beside `input_tokens`; OpenAI counts them inside `prompt_tokens`. Both count
reasoning inside the output. Whatever a block says, the classes sum to the provider's total: a part larger than its whole is
cut to it, and where a total disagrees with its parts the total is right, because it is what is billed.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import Any

import msgspec

from app.llm.messages import EmbedCall, ModelCall, Text, ToolCall
from app.usage import ServiceTier, TokenUsage

_LARGEST = 2**31 - 1
BYTES_PER_TOKEN = 4
_MESSAGE_OVERHEAD = 4
_IMAGE_TOKENS = 1000
MOST_TOKENS_A_SECOND = 1000
"""Few models are faster."""

_TIERS = {tier.value: tier for tier in ServiceTier}

Count = int | float | None


class CacheCreation(msgspec.Struct, gc=False):
    ephemeral_5m_input_tokens: Count = None
    ephemeral_1h_input_tokens: Count = None


class OutputTokensDetails(msgspec.Struct, gc=False):
    thinking_tokens: Count = None


class AnthropicUsage(msgspec.Struct, gc=False):
    input_tokens: Count = None
    cache_read_input_tokens: Count = None
    cache_creation_input_tokens: Count = None
    cache_creation: CacheCreation | None = None
    output_tokens: Count = None
    output_tokens_details: OutputTokensDetails | None = None
    service_tier: Any = None
    speed: Any = None


class ErrorBody(msgspec.Struct, gc=False):
    error: Any = None


class PromptTokensDetails(msgspec.Struct, gc=False):
    cached_tokens: Count = None
    cache_write_tokens: Count = None


class CompletionTokensDetails(msgspec.Struct, gc=False):
    reasoning_tokens: Count = None


class OpenAIUsage(msgspec.Struct, gc=False):
    prompt_tokens: Count = None
    completion_tokens: Count = None
    total_tokens: Count = None
    prompt_tokens_details: PromptTokensDetails | None = None
    completion_tokens_details: CompletionTokensDetails | None = None


def _tokens(count: Count) -> int:
    """A count as a whole number from 0 to 2^31 - 1."""
    if count is None or not count > 0:
        return 0
    return int(min(count, _LARGEST))


def anthropic_usage(block: AnthropicUsage) -> TokenUsage:
    """The total is input + cache reads + cache writes + output, each as the provider says."""
    written = _tokens(block.cache_creation_input_tokens)
    written_1h = 0
    if block.cache_creation is not None:
        if block.cache_creation_input_tokens is None:
            written = _tokens(block.cache_creation.ephemeral_5m_input_tokens)
            written += _tokens(block.cache_creation.ephemeral_1h_input_tokens)
        written_1h = min(_tokens(block.cache_creation.ephemeral_1h_input_tokens), written)
    output = _tokens(block.output_tokens)
    details = block.output_tokens_details
    reasoning = min(_tokens(details.thinking_tokens), output) if details is not None else 0
    return TokenUsage(
        uncached_input_tokens=_tokens(block.input_tokens),
        cached_input_tokens=_tokens(block.cache_read_input_tokens),
        cache_write_5m_tokens=written - written_1h,
        cache_write_1h_tokens=written_1h,
        visible_output_tokens=output - reasoning,
        reasoning_tokens=reasoning,
        service_tier=_anthropic_tier(block),
    )


def merge_anthropic(start: AnthropicUsage | None, later: AnthropicUsage) -> AnthropicUsage:
    """`later` is cumulative: what it says replaces what the start of the stream said."""
    if start is None:
        return later
    for field in AnthropicUsage.__struct_fields__:
        if getattr(later, field) is None:
            setattr(later, field, getattr(start, field))
    return later


_ERROR = msgspec.json.Decoder(ErrorBody)


def openai_usage(block: OpenAIUsage, service_tier: object = None) -> TokenUsage:
    """`service_tier` is what the answer says beside its usage. The total is `total_tokens`. Servers that leave reasoning out of
    `completion_tokens` count it there, so the output is what the total has beyond the input."""
    input_tokens = _tokens(block.prompt_tokens)
    total = _tokens(block.total_tokens) or input_tokens + _tokens(block.completion_tokens)
    input_tokens = min(input_tokens, total)
    output = total - input_tokens
    inside = block.prompt_tokens_details
    cached = min(_tokens(inside.cached_tokens), input_tokens) if inside is not None else 0
    written = min(_tokens(inside.cache_write_tokens), input_tokens - cached) if inside is not None else 0
    details = block.completion_tokens_details
    reasoning = min(_tokens(details.reasoning_tokens), output) if details is not None else 0
    return TokenUsage(
        uncached_input_tokens=input_tokens - cached - written,
        cached_input_tokens=cached,
        cache_write_5m_tokens=written,
        visible_output_tokens=output - reasoning,
        reasoning_tokens=reasoning,
        service_tier=_tier(service_tier),
    )


def _tier(name: object) -> ServiceTier:
    """Names without prices of their own, such as `default` and `scale`, are the standard one's."""
    return _TIERS.get(name, ServiceTier.STANDARD) if isinstance(name, str) else ServiceTier.STANDARD


def _anthropic_tier(block: AnthropicUsage) -> ServiceTier:
    named = _tier(block.service_tier)
    return _tier(block.speed) if named is ServiceTier.STANDARD else named


def estimated_usage(call: ModelCall, output_bytes: int) -> TokenUsage:
    """Where the provider's figures never came: the input as it was counted, else four bytes of UTF-8 a token, as for the output;
    `confirmed` is False."""
    counted = call.input_tokens or _estimated_input(call)
    return TokenUsage(uncached_input_tokens=counted, visible_output_tokens=_ceil(output_bytes), confirmed=False)


def unanswered_usage(call: ModelCall, waited_seconds: float) -> TokenUsage:
    """What to assume of a whole answer that never began: as much as can be made in that time."""
    made = min(call.max_output_tokens, ceil(waited_seconds * MOST_TOKENS_A_SECOND))
    return estimated_usage(call, BYTES_PER_TOKEN * made)


def broken_answer_usage(raw: bytes, estimated: TokenUsage) -> TokenUsage | None:
    """What to assume of a body that came with status 200 and cannot be read. An answer that is broken was made all the same, and
    is billed; an error, or a page of whatever stands between, is none."""
    if not raw.lstrip().startswith(b"{"):
        return None
    try:
        return None if _ERROR.decode(raw).error is not None else estimated
    except msgspec.DecodeError:
        return estimated


def answer_bytes(text: str | None, tool_calls: Iterable[ToolCall]) -> int:
    return len((text or "").encode()) + sum(len(made.name) + len(made.arguments.encode()) for made in tool_calls)


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
