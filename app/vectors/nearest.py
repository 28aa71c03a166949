"""The `count` nearest chunks from a store that returns the nearest ones it finds, in any order among equals.

More is asked for until `count` hits match and the last one is nearer than the farthest that was found: then no other chunk can
be as near, and ties are decided by key. A store that finds fewer than it was asked for has no more, or comes short.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from operator import mul
from typing import NamedTuple
from uuid import UUID

from app.vectors.filters import Filter, Scalar, matches
from app.vectors.store import Distance, Hit, IndexedChunk, Vector

_GROWTH = 4


class Found(NamedTuple):
    """`distance` is what `Distance.score_of_distance` takes. `metadata` is None if the store could not keep it."""

    distance: float
    key: UUID
    metadata: Mapping[str, Scalar] | None


@dataclass(frozen=True, slots=True)
class Nearest:
    """`shown` is how many chunks the store showed at last, before `where` was tested. `is_complete` is false if fewer than
    `count` were found although the store could show more."""

    found: Sequence[Found]
    shown: int
    is_complete: bool


async def nearest(ask: Callable[[int], Awaitable[list[Found]]], count: int, max_asked: int, where: Filter | None) -> Nearest:
    """`ask` returns the nearest so many chunks, fewer only if there are no more; `max_asked` is as many as it takes. `where` is
    tested on each."""
    asked = min(count + 1, max_asked)
    while True:
        found = await ask(asked)
        kept = sorted((each for each in found if each.metadata is None or matches(where, each.metadata)), key=_rank)
        is_all = len(found) < asked
        is_decided = len(kept) > count and kept[count - 1].distance < max(each.distance for each in found)
        if is_all or is_decided or asked == max_asked:
            return Nearest(kept[:count], len(found), is_all or len(kept) >= count)
        asked = min(asked * _GROWTH, max_asked)


async def exactly_nearest(
    pages: AsyncIterator[Sequence[IndexedChunk]], distance: Distance, vector: Vector, count: int, where: Filter | None
) -> list[Found]:
    """Compares the vector with every chunk that matches."""
    best: list[Found] = []
    async for page in pages:
        found = [
            Found(_distance(distance, vector, chunk.vector), chunk.key, {})
            for chunk in page
            if where is None or matches(where, chunk.metadata)
        ]
        best = nsmallest(count, [*best, *found], key=_rank)
    return best


def hits_of(found: Sequence[Found], distance: Distance) -> list[Hit]:
    """Best first, ties by key."""
    hits = [Hit(each.key, distance.score_of_distance(each.distance)) for each in found]
    return sorted(hits, key=lambda hit: (-hit.score, hit.key))


def _rank(found: Found) -> tuple[float, UUID]:
    return found.distance, found.key


def _distance(distance: Distance, one: Vector, other: Vector) -> float:
    if distance is Distance.EUCLIDEAN:
        return math.dist(one, other)
    product: float = sum(map(mul, one, other))
    if distance is Distance.DOT:
        return -product
    length = math.hypot(*one) * math.hypot(*other)
    return 1 - product / length if length else 1.0
