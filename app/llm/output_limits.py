"""How many tokens a model may write in one answer. No call is held for more, or sent with more.

The limit is the configured `max_output_tokens`, else what is known of the model, else the configured `limits.output_tokens`. It
is never more than the model's context window. Models that are neither listed nor known get `limits.output_tokens`, which
today's large models can write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from app.llm.routing import Target
from app.settings import ModelSettings, ProviderKindName, Settings

_MAX_KEPT = 1000
_KNOWN: Final[Mapping[ProviderKindName, Mapping[str, int]]] = MappingProxyType(
    {
        ProviderKindName.ANTHROPIC: {
            "claude-2": 4_096,
            "claude-instant": 4_096,
            "claude-3-": 4_096,
            "claude-3-5-": 8_192,
            "claude-3-7-": 64_000,
            "claude-opus-4-0": 32_000,
            "claude-opus-4-1": 32_000,
            "claude-opus-4-2": 32_000,
            "claude-opus-4-5": 64_000,
            "claude-sonnet-4-0": 64_000,
            "claude-sonnet-4-2": 64_000,
            "claude-sonnet-4-5": 64_000,
            "claude-haiku-4-5": 64_000,
            "claude-haiku-5-5": 64_000,
            "claude-sonnet-5-5": 128_000,
            "claude-opus-5-5": 128_000,
        },
        ProviderKindName.OPENAI: {
            "gpt-3.5": 4_096,
            "gpt-4": 8_192,
            "gpt-4-0125": 4_096,
            "gpt-4-1106": 4_096,
            "gpt-4-turbo": 4_096,
            "gpt-4-vision": 4_096,
            "gpt-4-32k": 32_768,
            "gpt-4o": 16_384,
            "chatgpt-4o": 16_384,
            "gpt-4.1": 32_768,
            "gpt-4.5": 16_384,
            "gpt-5": 128_000,
            "gpt-5-chat": 16_384,
            "gpt-5-pro": 272_000,
            "gpt-6": 128_000,
            "o1": 100_000,
            "o1-mini": 65_536,
            "o1-preview": 32_768,
            "o3": 100_000,
            "o4-mini": 100_000,
        },
    }
)
"""Keyed by the beginning of a model's name; the longest match counts. A snapshot has its date after the name."""


def known_output_tokens(kind: ProviderKindName, model: str) -> int | None:
    """None if unknown. The models of an openai-compatible server may be from any vendor."""
    known = _KNOWN.get(kind, {})
    fitting = [beginning for beginning in known if model.startswith(beginning)]
    return known[max(fitting, key=len)] if fitting else None


class OutputLimits:
    def __init__(self, settings: Settings, listed_context: Callable[[str, str], int | None]) -> None:
        """`listed_context` returns the context window of a provider's model in the public price list."""
        self._default = settings.limits.output_tokens
        self._kinds = {provider.name: provider.kind for provider in settings.providers}
        self._models = {Target(each.name, model.name): model for each in settings.providers for model in each.models}
        self._listed_context = listed_context
        self._kept: dict[Target, int] = {}

    def of(self, target: Target) -> int:
        limit = self._kept.get(target)
        if limit is None:
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            limit = self._kept[target] = self._find(target)
        return limit

    def _find(self, target: Target) -> int:
        model: ModelSettings | None = self._models.get(target)
        if model is not None and model.max_output_tokens is not None:
            return model.max_output_tokens
        kind = self._kinds.get(target.provider)
        known = None if kind is None else known_output_tokens(kind, target.model)
        context = None if model is None else model.context_tokens
        if context is None:
            context = self._listed_context(target.provider, target.model)
        limit = known or self._default
        return limit if context is None else min(limit, context)
