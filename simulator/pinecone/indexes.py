"""The control plane: which indexes there are."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from simulator.pinecone.errors import Failure, invalid
from simulator.pinecone.records import Records, Visibility

_MAX_DIMENSION = 20_000
_METRICS = frozenset({"cosine", "euclidean", "dotproduct"})
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,43}[a-z0-9])?")
_DENSE = "_values"


class _Field(msgspec.Struct):
    type: str
    dimension: int = 0
    metric: str = "cosine"


class _Schema(msgspec.Struct):
    fields: dict[str, _Field]


class _Deployment(msgspec.Struct):
    deployment_type: str = "managed"
    cloud: str = "aws"
    region: str = "us-east-1"


class _Create(msgspec.Struct, forbid_unknown_fields=True):
    schema: _Schema
    name: str | None = None
    deployment: _Deployment = msgspec.field(default_factory=_Deployment)
    read_capacity: dict[str, object] | None = None
    deletion_protection: str = "disabled"
    tags: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Index:
    name: str
    host: str
    deployment: Mapping[str, str]
    ready_at: float
    records: Records


class Indexes:
    """`ready_after_ms` passes until a new index takes requests."""

    def __init__(self, address: str, clock: Callable[[], float], visibility: Visibility, ready_after_ms: float) -> None:
        self._address = address
        self._clock = clock
        self._visibility = visibility
        self._ready_after_ms = ready_after_ms
        self._indexes: dict[str, Index] = {}

    def create(self, body: bytes) -> dict[str, object]:
        """Raises Failure."""
        try:
            asked = msgspec.json.decode(body, type=_Create)
        except msgspec.DecodeError as error:
            raise invalid(f"Invalid request body: {error}") from None
        name = asked.name or f"index-{len(self._indexes) + 1}"
        if _NAME.fullmatch(name) is None:
            raise invalid("Name must consist of lower case alphanumeric characters or '-', and be at most 45 characters long")
        if name in self._indexes:
            raise Failure(409, f"Resource {name} already exists")
        dense = _dense_field(asked.schema)
        index = Index(
            name,
            f"{self._address}/hosts/{name}",
            {"deployment_type": "managed", "cloud": asked.deployment.cloud, "region": asked.deployment.region},
            self._clock() + self._ready_after_ms / 1000,
            Records(dense.metric, dense.dimension, self._visibility, self._clock),
        )
        self._indexes[name] = index
        return self.described(index)

    def described(self, index: Index) -> dict[str, object]:
        is_ready = self._clock() >= index.ready_at
        dense = {"type": "dense_vector", "dimension": index.records.dimension, "metric": index.records.metric}
        return {
            "name": index.name,
            "host": index.host,
            "status": {"ready": is_ready, "state": "Ready" if is_ready else "Initializing"},
            "schema": {"fields": {_DENSE: dense}},
            "deployment": index.deployment,
            "read_capacity": {"mode": "OnDemand", "status": {"state": "Ready"}},
            "deletion_protection": "disabled",
            "tags": {},
        }

    def listing(self) -> dict[str, object]:
        return {"indexes": [self.described(index) for index in self._indexes.values()]}

    def get(self, name: str) -> Index:
        """Raises Failure."""
        index = self._indexes.get(name)
        if index is None:
            raise Failure(404, f"Resource {name} not found")
        return index

    def serving(self, name: str) -> Records:
        """The records of an index that is ready. Raises Failure."""
        index = self.get(name)
        if self._clock() < index.ready_at:
            raise Failure(503, f"Index {name} is not ready")
        return index.records

    def delete(self, name: str) -> None:
        """Raises Failure."""
        self.get(name)
        del self._indexes[name]

    def all_records(self) -> dict[str, Records]:
        return {name: index.records for name, index in self._indexes.items()}

    def clear(self) -> None:
        self._indexes.clear()


def _dense_field(schema: _Schema) -> _Field:
    """The only schema that the vector operations serve has one dense field with the reserved name."""
    if list(schema.fields) != [_DENSE] or schema.fields[_DENSE].type != "dense_vector":
        raise invalid(f"this simulator has only indexes with the one dense field {_DENSE}")
    dense = schema.fields[_DENSE]
    if not 1 <= dense.dimension <= _MAX_DIMENSION:
        raise invalid(f"Dimension must be between 1 and {_MAX_DIMENSION}, got {dense.dimension}")
    if dense.metric not in _METRICS:
        raise invalid(f"Invalid metric {dense.metric}")
    return dense
