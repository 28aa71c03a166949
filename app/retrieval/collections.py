"""How collections are made and deleted: their model and store are chosen once, and never change."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from app.access.principal import Principal
from app.domain.errors import Refused
from app.domain.problems import Conflict, InvalidInput
from app.retrieval.embedder import Embedder
from app.vectors.collections import NO_MODEL, Collection, Collections, NewCollection
from app.vectors.registry import VectorStores
from app.vectors.store import Distance, Index


@dataclass(frozen=True, slots=True)
class CollectionRequest:
    name: str
    embedding_model: str | None = None
    dimensions: int | None = None
    distance: Distance = Distance.COSINE
    store: str | None = None


class CollectionMaker:
    def __init__(self, collections: Collections, stores: VectorStores, embedder: Embedder) -> None:
        self._collections = collections
        self._stores = stores
        self._embedder = embedder

    async def create(self, request: CollectionRequest, principal: Principal) -> Collection:
        """Raises Refused: InvalidInput, Conflict if the name is in use, and what an embedding may be refused with.
        StoreUnavailable."""
        store = self._stores.choose(request.store)
        if request.dimensions is not None:
            _check_dimensions(request.dimensions, store.max_dimensions, store.name)
        if await self._collections.find(principal.tenant, request.name) is not None:
            raise Refused(Conflict(f"A collection with the name {request.name!r} exists."))
        model = self._model(request)
        dimensions = request.dimensions
        if dimensions is None:
            dimensions = await self._embedder.native_dimensions(model, principal)
            _check_dimensions(dimensions, store.max_dimensions, store.name)
        new = NewCollection(
            request.name, store.name, model, dimensions, request.distance, shortened=request.dimensions is not None
        )
        key = self._collections.new_key()
        await store.create(Index(key, principal.tenant, dimensions, request.distance))
        return await self._collections.create(principal.tenant, new, key)

    async def delete(self, name: str, principal: Principal) -> UUID:
        """Raises Refused(NotFound)."""
        return await self._collections.delete(principal.tenant, name)

    def _model(self, request: CollectionRequest) -> str:
        if request.embedding_model == NO_MODEL:
            if request.dimensions is None:
                raise Refused(InvalidInput("A collection without an embedding model needs `dimensions`.", ("dimensions",)))
            return NO_MODEL
        try:
            return self._embedder.find_target(request.embedding_model)
        except Refused:
            if request.embedding_model is None and request.dimensions is not None:
                return NO_MODEL
            raise


def _check_dimensions(dimensions: int, maximum: int, store: str) -> None:
    if not 1 <= dimensions <= maximum:
        problem = f"The vectors have {dimensions} dimensions; the store {store} takes 1 to {maximum}."
        raise Refused(InvalidInput(problem, ("dimensions",)))
