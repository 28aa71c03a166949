"""The records of one index, by namespace, and when writes become visible.

Writes become visible in their order. While they are held, or their delay has not passed, reads see the earlier state.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import nsmallest
from operator import mul
from typing import NamedTuple

from simulator.pinecone.errors import invalid
from simulator.pinecone.filters import Matcher, Value


class Record(NamedTuple):
    """`unit` is the vector with length 1; empty if it has only zeros."""

    id: str
    values: tuple[float, ...]
    unit: tuple[float, ...]
    metadata: Mapping[str, Value]


class Match(NamedTuple):
    score: float
    record: Record


@dataclass(slots=True)
class Visibility:
    """`delay_ms` passes before a write can be read. While `held` is true, no write can be read."""

    delay_ms: float = 0.0
    held: bool = False


@dataclass(slots=True)
class Records:
    """`names` are the namespaces that were written to and not deleted, also while the writes cannot be read yet."""

    metric: str
    dimension: int
    visibility: Visibility
    clock: Callable[[], float]
    names: set[str] = field(default_factory=set)
    namespaces: dict[str, dict[str, Record]] = field(default_factory=dict)
    _waiting: deque[tuple[float, Callable[[], None]]] = field(default_factory=deque)

    def upsert(self, namespace: str, records: list[Record]) -> None:
        def apply() -> None:
            self.namespaces.setdefault(namespace, {}).update((record.id, record) for record in records)

        self.names.add(namespace)
        self._write(apply)

    def delete(self, namespace: str, ids: Iterable[str]) -> None:
        wanted = list(ids)

        def apply() -> None:
            for each in wanted:
                self.namespaces.get(namespace, {}).pop(each, None)

        self._write(apply)

    def delete_all(self, namespace: str) -> None:
        self._write(lambda: self.namespaces.get(namespace, {}).clear())

    def drop(self, namespace: str) -> None:
        def apply() -> None:
            self.namespaces.pop(namespace, None)

        self.names.discard(namespace)
        self._write(apply)

    def visible(self, namespace: str) -> Mapping[str, Record]:
        self.settle()
        return self.namespaces.get(namespace, {})

    def settle(self) -> None:
        """Makes visible what is due."""
        while self._waiting and not self.visibility.held and self._waiting[0][0] <= self.clock():
            self._waiting.popleft()[1]()

    def shown(self) -> dict[str, dict[str, Mapping[str, Value]]]:
        self.settle()
        return {name: {record.id: record.metadata for record in held.values()} for name, held in self.namespaces.items()}

    def nearest(self, namespace: str, vector: tuple[float, ...], count: int, where: Matcher | None) -> list[Match]:
        """Exact, best first."""
        found = (record for record in self.visible(namespace).values() if where is None or where(record.metadata))
        sign = 1 if self.metric == "euclidean" else -1
        return nsmallest(count, self._scored(vector, found), key=lambda match: sign * match.score)

    def _scored(self, vector: tuple[float, ...], records: Iterable[Record]) -> Iterator[Match]:
        match self.metric:
            case "euclidean":
                yield from (Match(math.dist(vector, record.values) ** 2, record) for record in records)
            case "cosine":
                unit = unit_of(vector)
                yield from (Match(1 - math.dist(unit, record.unit) ** 2 / 2, record) for record in records)
            case _:
                yield from (Match(sum(map(mul, vector, record.values)), record) for record in records)

    def _write(self, apply: Callable[[], None]) -> None:
        self._waiting.append((self.clock() + self.visibility.delay_ms / 1000, apply))
        self.settle()


def vector_of(numbers: list[float], dimension: int) -> tuple[float, ...]:
    """Rounds to 32-bit floats. Raises Failure."""
    if len(numbers) != dimension:
        raise invalid(f"Vector dimension {len(numbers)} does not match the dimension of the index {dimension}")
    try:
        rounded = tuple(array("f", numbers))
    except OverflowError:
        raise invalid("a value is out of the range of 32-bit floats") from None
    if not all(map(math.isfinite, rounded)):
        raise invalid("a value is not finite")
    return rounded


def unit_of(vector: tuple[float, ...]) -> tuple[float, ...]:
    length = math.hypot(*vector)
    return tuple(value / length for value in vector) if length else ()
