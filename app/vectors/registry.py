"""The configured vector stores. The SDK of a store is heavy to import, so only the modules of configured stores are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module

from app.db.sessions import Sessions
from app.domain.errors import Refused, SettingsError, StoreUnavailable
from app.domain.problems import InvalidInput
from app.runtime.clock import Clock
from app.secrets.reference import SecretReference
from app.settings import VectorSettings, VectorStoreKind, VectorStoreSettings
from app.vectors.guarded import GuardedStore
from app.vectors.metrics import VectorMetrics
from app.vectors.pgvector import PgVector
from app.vectors.store import VectorStore

PGVECTOR = VectorStoreSettings(name="pgvector", kind=VectorStoreKind.PGVECTOR)


class VectorStores:
    def __init__(self, stores: Mapping[str, GuardedStore], default: str) -> None:
        self._stores = stores
        self._default = default

    def __iter__(self) -> Iterator[GuardedStore]:
        return iter(self._stores.values())

    def named(self, name: str) -> GuardedStore:
        """The store of a collection that exists. A store that is not configured any more is StoreUnavailable."""
        found = self._stores.get(name)
        if found is None:
            raise StoreUnavailable(name)
        return found

    def choose(self, name: str | None) -> GuardedStore:
        """The store for a new collection; None is the default. Raises Refused(InvalidInput)."""
        found = self._stores.get(name or self._default)
        if found is None:
            known = ", ".join(self._stores)
            raise Refused(InvalidInput(f"There is no store {(name or '')[:100]!r}. Configured are {known}.", ("store",)))
        return found

    async def close(self) -> None:
        for store in self:
            await store.close()


def build_vector_stores(settings: VectorSettings, sessions: Sessions, clock: Clock, metrics: VectorMetrics) -> VectorStores:
    """Connects at the first use. Raises SettingsError if a store cannot be used as it is configured."""
    configured = {PGVECTOR.name: PGVECTOR} | {each.name: each for each in settings.stores}
    stores = {
        name: GuardedStore(name, _open(each, sessions), clock, metrics, seconds=each.timeout.total_seconds())
        for name, each in configured.items()
    }
    return VectorStores(stores, settings.default_store)


def _open(settings: VectorStoreSettings, sessions: Sessions) -> VectorStore:
    match settings.kind:
        case VectorStoreKind.PGVECTOR:
            return PgVector(sessions)
        case VectorStoreKind.CHROMA:
            assert settings.url is not None
            chroma: VectorStore = _loaded(settings, "Chroma")(
                settings.name, _revealed(settings.name, settings.url), settings.timeout.total_seconds()
            )
            return chroma
        case VectorStoreKind.PINECONE:
            assert settings.api_key is not None
            pinecone: VectorStore = _loaded(settings, "Pinecone")(
                settings.name,
                _revealed(settings.name, settings.api_key),
                settings.host,
                settings.index_prefix,
                settings.timeout.total_seconds(),
            )
            return pinecone


def _loaded(settings: VectorStoreSettings, name: str) -> Callable[..., VectorStore]:
    """Imports the module of a kind of store. Raises SettingsError if its extra is not installed."""
    try:
        module = import_module(f"app.vectors.{settings.kind.value}")
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"vectors.stores.{settings.name}",
            f"the package {error.name} is not installed; the extra brings it: pip install 'greenlang[{settings.kind.value}]'",
        ) from None
    opened: Callable[..., VectorStore] = getattr(module, name)
    return opened


def _revealed(name: str, reference: SecretReference) -> str:
    try:
        return reference.reveal()
    except SettingsError as error:
        raise SettingsError(f"vectors.stores.{name}", str(error)) from None
