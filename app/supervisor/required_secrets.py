"""Reads every secret that a start will need before anything is started. If one is missing, the start stops with its place in
the configuration."""

from __future__ import annotations

from collections.abc import Iterator

from app.domain.errors import SettingsError
from app.secrets.reference import SecretReference
from app.settings import Settings


def require_secrets(settings: Settings) -> None:
    """Raises SettingsError."""
    for place, reference in _references(settings):
        try:
            reference.reveal()
        except SettingsError as error:
            raise SettingsError(place, str(error)) from None


def _references(settings: Settings) -> Iterator[tuple[str, SecretReference]]:
    for index, replica in enumerate(settings.database.replicas):
        yield f"database.replicas[{index}]", replica
    yield from ((place, reference) for place, reference in _stores(settings) if reference is not None)
    for index, provider in enumerate(settings.providers):
        for number, key in enumerate(provider.api_keys if provider.enabled else ()):
            yield f"providers[{index}].api_keys[{number}]", key
    for index, key in enumerate(settings.content.encryption_keys):
        yield f"content.encryption_keys[{index}]", key
    for index, store in enumerate(settings.vectors.stores):
        named = ((f"vectors.stores[{index}].{key}", getattr(store, key)) for key in ("url", "api_key"))
        yield from ((place, reference) for place, reference in named if reference is not None)
    for index, webhook in enumerate(settings.webhooks):
        yield f"webhooks[{index}].secret", webhook.secret


def _stores(settings: Settings) -> Iterator[tuple[str, SecretReference | None]]:
    yield "database.primary", settings.database.primary
    yield "database.owner", settings.database.owner
    yield "database.direct", settings.database.direct
    yield "redis.url", settings.redis.url
    yield "cache.local.url", settings.cache.local.url
    yield "cache.shared.url", settings.cache.shared.url
