"""What the providers' prompt caches hold, as far as their answers say. It decides the order of targets by cost, never the size
of a hold.

If calls begin with the same tools and the same first message, the target that served the last one is cheap for the next, for
some minutes.
"""

from __future__ import annotations

from functools import cached_property

from app.domain.usage import TokenUsage
from app.gateway.completions import CompletionRequest
from app.llm.routing import Target
from app.runtime.clock import Clock
from app.runtime.request_hash import digest

KEPT_SECONDS = 300.0
_MAX_PREFIXES = 10_000


class PromptCacheAffinity:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: dict[tuple[bytes, Target], tuple[int, float]] = {}

    def note(self, prefix: bytes, target: Target, tokens: int) -> None:
        self._kept.pop((prefix, target), None)
        if len(self._kept) >= _MAX_PREFIXES:
            del self._kept[next(iter(self._kept))]
        self._kept[prefix, target] = tokens, self._clock.monotonic()

    def tokens(self, prefix: bytes, target: Target) -> int:
        tokens, at = self._kept.get((prefix, target), (0, 0.0))
        return tokens if self._clock.monotonic() - at < KEPT_SECONDS else 0


class Prompt:
    """The beginning of one call's prompt. Hashing a large one takes long; `read` can do it earlier, from any thread."""

    def __init__(self, caches: PromptCacheAffinity, tenant: str, request: CompletionRequest) -> None:
        self._caches = caches
        self._tenant = tenant
        self._request = request

    def read(self) -> bytes:
        return self._prefix

    def cached_at(self, target: Target) -> int:
        """The number of input tokens that this target has in its cache."""
        return self._caches.tokens(self._prefix, target)

    def served(self, target: Target, usage: TokenUsage) -> None:
        """Notes the tokens that the target read from its cache or wrote to it: the next call finds them there."""
        kept = usage.cached_input_tokens + usage.cache_write_tokens
        if kept:
            self._caches.note(self._prefix, target, kept)

    @cached_property
    def _prefix(self) -> bytes:
        return digest((self._tenant, self._request.tools, self._request.messages[:1]))
