"""The configured providers. An SDK takes a second or two of CPU to import, so only those are loaded that are configured."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from app.clock import Clock
from app.llm.provider import Provider
from app.settings import ProviderKindName, ProviderSettings

_ADAPTERS = {
    ProviderKindName.ANTHROPIC: ("app.llm.anthropic", "AnthropicProvider"),
    ProviderKindName.OPENAI: ("app.llm.openai", "OpenAIProvider"),
    ProviderKindName.OPENAI_COMPATIBLE: ("app.llm.openai", "OpenAIProvider"),
}


def load_adapters(configured: Iterable[ProviderSettings]) -> None:
    """Imports what `build_providers` will need: done before server processes fork, they share its memory."""
    for settings in configured:
        if settings.enabled:
            importlib.import_module(_ADAPTERS[settings.kind][0])


def build_providers(configured: Iterable[ProviderSettings], clock: Clock) -> dict[str, Provider]:
    """By name, in the order of the configuration. Raises SettingsError where a key cannot be read; it says which."""
    providers: dict[str, Provider] = {}
    for settings in configured:
        if settings.enabled:
            module, adapter = _ADAPTERS[settings.kind]
            providers[settings.name] = getattr(importlib.import_module(module), adapter)(settings, clock)
    return providers
