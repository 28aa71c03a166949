"""Defaults that depend on other settings: providers, their keys and models, and the routes `default` and `embeddings`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from app.secrets.reference import SecretReference
from app.settings.groups import ModelSettings, ProviderKindName, ProviderSettings, RouteSettings, Settings

DEFAULT_ROUTE: Final = "default"
EMBEDDINGS_ROUTE: Final = "embeddings"
SIMULATOR_KEY: Final = "GREENLANG_SIMULATOR_KEY"
"""The variable with the key for the simulator. The process that starts the simulator sets it."""
UNPRICED_MODEL: Final = "sim-unpriced"

KEY_VARIABLES: Final[Mapping[ProviderKindName, str]] = MappingProxyType(
    {ProviderKindName.ANTHROPIC: "ANTHROPIC_API_KEY", ProviderKindName.OPENAI: "OPENAI_API_KEY"}
)
PUBLIC_URLS: Final[Mapping[ProviderKindName, str]] = MappingProxyType(
    {ProviderKindName.ANTHROPIC: "https://api.anthropic.com", ProviderKindName.OPENAI: "https://api.openai.com/v1"}
)
MODELS: Final[Mapping[ProviderKindName, tuple[str, ...]]] = MappingProxyType(
    {
        ProviderKindName.ANTHROPIC: ("claude-sonnet-5-5", "claude-haiku-5-5", "claude-opus-5-5"),
        ProviderKindName.OPENAI: ("gpt-6-sol", "gpt-6-luna", "gpt-5.4-mini", "text-embedding-3-small"),
    }
)
_SIMULATED_PATHS: Final[Mapping[ProviderKindName, str]] = MappingProxyType(
    {ProviderKindName.ANTHROPIC: "/anthropic", ProviderKindName.OPENAI: "/v1"}
)


def with_defaults(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """Adds what is missing: providers whose usual key variable is set, if none is configured; models and keys of a provider
    that has none; and the routes `default` and `embeddings`."""
    providers = settings.providers or tuple(
        ProviderSettings(name=kind.value, kind=kind)
        for kind, variable in KEY_VARIABLES.items()
        if environ.get(variable, "").strip()
    )
    return with_default_routes(settings.model_copy(update={"providers": tuple(map(_complete, providers))}))


def with_default_routes(settings: Settings) -> Settings:
    """Adds missing routes if there are providers: `default` with the first model of each enabled provider, in order, and
    `embeddings` with the first embedding model."""
    enabled = [provider for provider in settings.providers if provider.enabled]
    made = {
        DEFAULT_ROUTE: tuple(f"{provider.name}/{provider.models[0].name}" for provider in enabled if provider.models),
        EMBEDDINGS_ROUTE: tuple(_embedding_models(enabled))[:1],
    }
    known = {route.name for route in settings.routes}
    missing = (RouteSettings(name=name, targets=targets) for name, targets in made.items() if targets and name not in known)
    return settings.model_copy(update={"routes": (*settings.routes, *missing)})


def _embedding_models(providers: Iterable[ProviderSettings]) -> Iterator[str]:
    """Embedding models are recognised by their names: `text-embedding-3-small`, `nomic-embed-text`. Anthropic has none."""
    for provider in providers:
        if provider.kind is not ProviderKindName.ANTHROPIC:
            yield from (f"{provider.name}/{model.name}" for model in provider.models if "embed" in model.name.lower())


def needs_simulator(settings: Settings) -> bool:
    return not settings.providers


def simulated_providers(address: str) -> tuple[ProviderSettings, ...]:
    """Both providers as the simulator at `address` (`http://host:port`) imitates them, under the names of the real ones."""
    return tuple(
        ProviderSettings(
            name=kind.value,
            kind=kind,
            base_url=f"{address.rstrip('/')}{path}",
            api_keys=(SecretReference(env=SIMULATOR_KEY),),
            models=_models(*MODELS[kind], UNPRICED_MODEL),
            simulated=True,
        )
        for kind, path in _SIMULATED_PATHS.items()
    )


def with_simulator(settings: Settings, address: str) -> Settings:
    """The same settings with the simulator's providers, and the default routes if there are none."""
    return with_default_routes(settings.model_copy(update={"providers": simulated_providers(address)}))


def _complete(provider: ProviderSettings) -> ProviderSettings:
    found: dict[str, object] = {}
    if not provider.api_keys and provider.kind in KEY_VARIABLES:
        found["api_keys"] = (SecretReference(env=KEY_VARIABLES[provider.kind]),)
    if not provider.models and provider.kind in MODELS:
        found["models"] = _models(*MODELS[provider.kind])
    return provider.model_copy(update=found) if found else provider


def _models(*names: str) -> tuple[ModelSettings, ...]:
    return tuple(ModelSettings(name=name) for name in names)
