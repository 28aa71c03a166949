"""Tokens as providers bill them, in disjoint classes. Each token is in exactly one class, so nothing can be priced twice.

Inside, the classes never overlap. The usual inclusive figures (input with its cached part, output with its reasoning) are
derived from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Operation(Enum):
    COMPLETION = "COMPLETION"
    EMBEDDING = "EMBEDDING"
    ANSWER = "ANSWER"
    SEARCH = "SEARCH"


class CacheTier(Enum):
    MEMORY = "MEMORY"
    LOCAL_REDIS = "LOCAL_REDIS"
    SHARED_REDIS = "SHARED_REDIS"
    POSTGRES = "POSTGRES"


class ServiceTier(Enum):
    """How a provider says that it served a call. Each tier may have its own prices."""

    STANDARD = "standard"
    BATCH = "batch"
    FLEX = "flex"
    PRIORITY = "priority"
    FAST = "fast"


@dataclass(frozen=True, slots=True)
class TokenUsage:
    uncached_input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    visible_output_tokens: int = 0
    reasoning_tokens: int = 0
    confirmed: bool = True
    service_tier: ServiceTier = ServiceTier.STANDARD

    @property
    def cache_write_tokens(self) -> int:
        return self.cache_write_5m_tokens + self.cache_write_1h_tokens

    @property
    def input_tokens(self) -> int:
        return self.uncached_input_tokens + self.cached_input_tokens + self.cache_write_tokens

    @property
    def output_tokens(self) -> int:
        return self.visible_output_tokens + self.reasoning_tokens

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def __add__(self, other: TokenUsage) -> TokenUsage:
        """The sum. It is confirmed only if both are. It keeps the service tier only if both have the same."""
        return TokenUsage(
            self.uncached_input_tokens + other.uncached_input_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.cache_write_5m_tokens + other.cache_write_5m_tokens,
            self.cache_write_1h_tokens + other.cache_write_1h_tokens,
            self.visible_output_tokens + other.visible_output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.confirmed and other.confirmed,
            self.service_tier if self.service_tier is other.service_tier else ServiceTier.STANDARD,
        )


@dataclass(frozen=True, slots=True)
class RateLimitReport:
    """What is left according to the provider's headers; None if they do not say."""

    requests_remaining: int | None = None
    tokens_remaining: int | None = None


@dataclass(frozen=True, slots=True)
class Label:
    key: str
    value: str
