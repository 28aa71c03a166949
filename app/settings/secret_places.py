"""Where in the configuration a secret is named."""

from __future__ import annotations

from collections.abc import Iterator

from app.secrets.reference import SecretReference
from app.settings.groups import Settings


def secret_places(settings: Settings) -> Iterator[tuple[str, SecretReference]]:
    """Each place with its reference, except those with which the stores of secrets are entered."""
    for index, replica in enumerate(settings.database.replicas):
        yield f"database.replicas[{index}]", replica
    yield from ((place, reference) for place, reference in _of_stores(settings) if reference is not None)
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


def store_logins(settings: Settings) -> Iterator[tuple[str, SecretReference]]:
    """With what the stores of secrets are entered: references to the environment and to files only."""
    vault = settings.secrets.vault
    if vault is not None:
        named = {"token": vault.token, "role_id": vault.role_id, "secret_id": vault.secret_id}
        yield from ((f"secrets.vault.{key}", reference) for key, reference in named.items() if reference is not None)


def _of_stores(settings: Settings) -> Iterator[tuple[str, SecretReference | None]]:
    yield "database.primary", settings.database.primary
    yield "database.owner", settings.database.owner
    yield "database.direct", settings.database.direct
    yield "redis.url", settings.redis.url
    yield "cache.local.url", settings.cache.local.url
    yield "cache.shared.url", settings.cache.shared.url
