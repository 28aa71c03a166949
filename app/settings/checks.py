"""Checks over several keys: names that must be different, and names that must exist."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from difflib import get_close_matches
from typing import TypeAlias
from urllib.parse import urlsplit

from app.domain.hosts import is_numeric, is_written_in_full
from app.secrets.reference import SecretSource
from app.settings.defaults import needs_simulator, simulated_providers
from app.settings.groups import (
    PGVECTOR_STORE,
    DatabaseSettings,
    ProviderKindName,
    ProviderSettings,
    RouteSettings,
    Settings,
    VaultAuth,
    VectorSettings,
    VectorStoreKind,
    VectorStoreSettings,
)
from app.settings.secret_places import secret_places, store_logins
from app.settings.shape import Place

Fault: TypeAlias = tuple[Place, str]

_LOGINS = {
    VaultAuth.KUBERNETES: ("role",),
    VaultAuth.APPROLE: ("role_id", "secret_id"),
    VaultAuth.TOKEN: ("token",),
}
_MAX_PART_OF_A_FILE = timedelta(seconds=30)


def faults(settings: Settings) -> Iterator[Fault]:
    """Yields each fault with its place and what is allowed."""
    yield from _repeats(("providers",), [provider.name for provider in settings.providers])
    yield from _repeats(("routes",), [route.name for route in settings.routes])
    yield from _vector_faults(settings.vectors)
    yield from _repeats(("webhooks",), [webhook.url for webhook in settings.webhooks], "url")
    for index, webhook in enumerate(settings.webhooks):
        host = urlsplit(webhook.url).hostname or ""
        if is_numeric(host) and not is_written_in_full(host):
            yield (
                ("webhooks", index, "url"),
                f"{host} consists of numbers but is not an IP address; write all four numbers of the address",
            )
    for index, provider in enumerate(settings.providers):
        yield from _provider_faults(("providers", index), provider)
    if settings.providers and not any(provider.enabled for provider in settings.providers):
        yield ("providers",), "none is enabled; remove all of them to run with the simulator"
    providers = simulated_providers("http://127.0.0.1") if needs_simulator(settings) else settings.providers
    targets = [f"{provider.name}/{model.name}" for provider in providers for model in provider.models]
    for index, route in enumerate(settings.routes):
        yield from _target_faults(("routes", index), route, targets)
    yield from _database_faults(settings.database)
    yield from _secret_faults(settings)
    if settings.server.share_per_key > settings.server.share_per_tenant:
        yield ("server", "share_per_key"), "it is more than share_per_tenant: a key cannot hold more than its tenant"
    if settings.limits.trusted_only and settings.limits.trusted_documents is None:
        yield ("limits", "trusted_documents"), "it is required if trusted_only is true: the file with the documents"


def _secret_faults(settings: Settings) -> Iterator[Fault]:
    configured = {SecretSource.VAULT: settings.secrets.vault, SecretSource.AWS: settings.secrets.aws}
    for place, reference in secret_places(settings):
        if configured.get(reference.source, True) is None:
            yield (place,), f"it is in {reference.source.value}, and secrets.{reference.source.value} is not configured"
    for place, reference in store_logins(settings):
        if reference.source not in {SecretSource.ENVIRONMENT, SecretSource.FILE}:
            yield (place,), "it must be in the environment or in a file: the store is entered with it"
    vault = settings.secrets.vault
    if vault is not None:
        needed = _LOGINS[vault.auth]
        for missing in (name for name in needed if getattr(vault, name) is None):
            yield ("secrets", "vault", missing), f"it is required for auth = {vault.auth.value!r}"


def _vector_faults(vectors: VectorSettings) -> Iterator[Fault]:
    names = [store.name for store in vectors.stores]
    yield from _repeats(("vectors", "stores"), names)
    known = sorted({PGVECTOR_STORE, *names})
    if vectors.default_store not in known:
        yield ("vectors", "default_store"), f"no such store is configured; known are {', '.join(known)}"
    for index, store in enumerate(vectors.stores):
        if (store.name == PGVECTOR_STORE) != (store.kind is VectorStoreKind.PGVECTOR):
            yield ("vectors", "stores", index, "name"), f"{PGVECTOR_STORE} is the name of the one store in the service's database"
        yield from _store_faults(("vectors", "stores", index), store)
    if vectors.chunk_overlap >= vectors.chunk_tokens:
        yield ("vectors", "chunk_overlap"), "it must be less than chunk_tokens"


def _database_faults(database: DatabaseSettings) -> Iterator[Fault]:
    if database.owner is not None and database.primary is None:
        yield (
            ("database", "owner"),
            "it needs database.primary, the role that serves; leave both out to run the embedded PostgreSQL",
        )
    if database.direct is not None and database.primary is None:
        yield ("database", "direct"), "it needs database.primary, the same server through the pooler"
    if database.idle_transaction_timeout <= _MAX_PART_OF_A_FILE:
        yield (
            ("database", "idle_transaction_timeout"),
            "it must be longer than 30s: a slow reader of a cost export may need that long for one part, within a transaction",
        )


def _store_faults(place: Place, store: VectorStoreSettings) -> Iterator[Fault]:
    if store.kind is VectorStoreKind.PINECONE and store.api_key is None:
        yield (*place, "api_key"), "it is missing: the key of the Pinecone project"
    written = store.model_fields_set
    for key in sorted(written & {"api_key", "host", "index_prefix"} if store.kind is not VectorStoreKind.PINECONE else ()):
        yield (*place, key), "only a store of the kind pinecone has it"
    if "url" in written and store.kind is not VectorStoreKind.CHROMA:
        yield (*place, "url"), "only a store of the kind chroma has it"


def _repeats(place: Place, names: Sequence[str], key: str = "name") -> Iterator[Fault]:
    for index, name in enumerate(names):
        if name in names[:index]:
            yield (*place, index, key), f"{name} is taken by [{names.index(name)}]; names must differ"


def _provider_faults(place: Place, provider: ProviderSettings) -> Iterator[Fault]:
    if provider.kind is ProviderKindName.OPENAI_COMPATIBLE:
        if provider.base_url is None:
            yield (*place, "base_url"), "it is missing: the address where the server listens"
        if not provider.models:
            yield (*place, "models"), "it is missing: the names of the models that the server has"
    yield from _repeats((*place, "models"), [model.name for model in provider.models])


def _target_faults(place: Place, route: RouteSettings, known: Sequence[str]) -> Iterator[Fault]:
    for index, target in enumerate(route.targets):
        here: Place = (*place, "targets", index)
        if target in route.targets[:index]:
            yield here, f"{target} is in this route already"
        elif target not in known:
            close = get_close_matches(target, known, n=1)
            right = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            yield here, f"no provider is configured with this model, written provider/model; {right}"
