"""The configured providers. An SDK is heavy to import, so only the configured ones are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from app.llm.provider import Provider
from app.llm.providers.lean_import import import_lean
from app.runtime.clock import Clock
from app.settings import ProviderKindName, ProviderSettings

_ADAPTERS = {
    ProviderKindName.ANTHROPIC: ("app.llm.providers.anthropic.client", "anthropic", "AnthropicProvider"),
    ProviderKindName.OPENAI: ("app.llm.providers.openai.client", "openai", "OpenAIProvider"),
    ProviderKindName.OPENAI_COMPATIBLE: ("app.llm.providers.openai.client", "openai", "OpenAIProvider"),
}


def load_adapters(configured: Iterable[ProviderSettings]) -> None:
    """Imports what `build_providers` will need. If that is done before server processes fork, they share its memory."""
    for settings in configured:
        if settings.enabled:
            _adapter(settings.kind)


def build_providers(configured: Iterable[ProviderSettings], clock: Clock) -> dict[str, Provider]:
    """Returns providers by name, in the order of the configuration. Raises SettingsError, which names the key, if a key cannot
    be read."""
    providers: dict[str, Provider] = {}
    for settings in configured:
        if settings.enabled:
            providers[settings.name] = _adapter(settings.kind)(settings, clock)
    return providers


def _adapter(kind: ProviderKindName) -> Callable[[ProviderSettings, Clock], Provider]:
    module, sdk, name = _ADAPTERS[kind]
    adapter: Callable[[ProviderSettings, Clock], Provider] = getattr(import_lean(module, sdk), name)
    return adapter
