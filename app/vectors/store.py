"""What every vector store can do, and the values that go in and out.

A store holds keys, vectors and the metadata that filters test, never a text. Names in a store are made from our keys, never
from what a caller wrote. Every method is idempotent: after an error, or after the process was killed, the same call may be made
again. A store that does not answer is StoreUnavailable. Reads may be late: no caller reads back what it has just written.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeAlias
from uuid import UUID

from app.domain.errors import StoreUnavailable
from app.vectors.filters import Filter, Scalar

Vector: TypeAlias = "array[float]"
"""32-bit floats, the type code `f`: see `app/vectors/vector.py`."""


class StoreBusy(StoreUnavailable):
    """The store takes no writes to this index for a moment; searches work."""


class Distance(Enum):
    """How the score of two vectors is computed. Higher is nearer.

    COSINE: the cosine; below 0 it is 0. EUCLIDEAN: 1 / (1 + distance). DOT: the dot product.
    """

    COSINE = "COSINE"
    DOT = "DOT"
    EUCLIDEAN = "EUCLIDEAN"

    def score_of_distance(self, distance: float) -> float:
        """The score for what stores call a distance: 1 - cosine, the Euclidean distance (not its square), or the negative dot
        product."""
        match self:
            case Distance.COSINE:
                return min(1.0, max(0.0, 1.0 - distance))
            case Distance.EUCLIDEAN:
                return 1.0 / (1.0 + max(0.0, distance))
            case Distance.DOT:
                return -distance


@dataclass(frozen=True, slots=True)
class Index:
    """The index of one collection in its store. `tenant` is text of a caller: it may choose a separate room in the store, but
    must not become a name in it as it is."""

    key: UUID
    tenant: str
    dimensions: int
    distance: Distance

    @property
    def name(self) -> str:
        return f"c_{self.key.hex}"


@dataclass(frozen=True, slots=True)
class IndexedChunk:
    """`metadata` has only what filters can test: see `filterable`."""

    key: UUID
    vector: Vector
    metadata: Mapping[str, Scalar]


@dataclass(frozen=True, slots=True)
class Hit:
    """`score` is on the scale of the index's Distance."""

    key: UUID
    score: float


class VectorStore(Protocol):
    @property
    def max_dimensions(self) -> int:
        """Collections with more are refused before `create`."""

    async def create(self, index: Index) -> None:
        """Makes the index; does nothing if it exists. Raises Refused(InvalidInput) if this store cannot hold such an index,
        StoreUnavailable."""

    async def drop(self, index: Index) -> None:
        """Removes the index with everything in it; does nothing if there is none. Raises StoreUnavailable."""

    async def upsert(self, index: Index, chunks: Sequence[IndexedChunk]) -> None:
        """Writes chunks, in as many requests as the store needs. A chunk with the same key is replaced. Raises
        StoreUnavailable; some of the chunks may be written then."""

    async def delete(self, index: Index, keys: Sequence[UUID]) -> None:
        """Removes chunks by their keys; keys that are not there do not matter. Raises StoreUnavailable."""

    async def search(self, index: Index, vector: Vector, count: int, where: Filter | None = None) -> list[Hit]:
        """Returns the `count` nearest chunks that match, best first, ties by key. It returns fewer only if fewer match, however
        selective the filter is. `count` is at most 10,000. Raises StoreUnavailable."""

    def read(self, index: Index) -> AsyncIterator[Sequence[IndexedChunk]]:
        """Yields everything in the index, page by page, in any order; nothing if there is no index. Vectors may be rounded as
        the store keeps them. Raises StoreUnavailable."""

    async def check(self) -> None:
        """Returns if the store answers. Raises StoreUnavailable."""

    async def close(self) -> None:
        """Closes connections. The store is not used afterwards."""
