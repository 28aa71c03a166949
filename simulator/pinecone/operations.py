"""The data plane: what one index does with one request. Bodies and answers are the API's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

import msgspec

from simulator.pinecone.errors import Failure, invalid
from simulator.pinecone.filters import compiled, metadata_of
from simulator.pinecone.records import Record, Records, unit_of, vector_of

MAX_REQUEST_BYTES = 2 * 1024 * 1024
_MAX_ANSWER_BYTES = 4 * 1024 * 1024
_MAX_RECORDS = 1000
_MAX_TOP_K = 10_000
_MAX_LISTED = 100
_MAX_ID = 512
_DEFAULT = "__default__"


class _Vector(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    values: list[float]
    metadata: dict[str, object] | None = None


class _Upsert(msgspec.Struct, forbid_unknown_fields=True):
    vectors: list[_Vector]
    namespace: str = ""


class _Query(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    top_k: int
    vector: list[float] | None = None
    id: str | None = None
    namespace: str = ""
    filter: object = None
    include_values: bool = False
    include_metadata: bool = False


class _Delete(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    namespace: str = ""
    ids: list[str] | None = None
    delete_all: bool = False
    filter: object = None


class _Stats(msgspec.Struct, forbid_unknown_fields=True):
    filter: object = None


Query: TypeAlias = Mapping[str, list[str]]
Operation: TypeAlias = Callable[[Records, bytes, Query], object]
_Body = TypeVar("_Body")


def upsert(records: Records, body: bytes, _query: Query) -> object:
    asked = _decoded(body, _Upsert)
    if len(asked.vectors) > _MAX_RECORDS:
        raise invalid(f"Request has {len(asked.vectors)} vectors, which exceeds the limit of {_MAX_RECORDS}")
    records.upsert(_named(asked.namespace), [_record(each, records) for each in asked.vectors])
    return {"upsertedCount": len(asked.vectors)}


def query(records: Records, body: bytes, _query: Query) -> object:
    asked = _decoded(body, _Query)
    if not 1 <= asked.top_k <= _MAX_TOP_K:
        raise invalid(f"topK must be between 1 and {_MAX_TOP_K}, got {asked.top_k}")
    if (asked.vector is None) == (asked.id is None):
        raise invalid("Exactly one of vector and id must be provided")
    namespace = _named(asked.namespace)
    vector = _vector_of_query(asked, records, namespace)
    where = None if asked.filter is None else compiled(asked.filter)
    matches = [] if vector is None else records.nearest(namespace, vector, asked.top_k, where)
    answer = {
        "matches": [
            {
                "id": match.record.id,
                "score": match.score,
                "values": match.record.values if asked.include_values else [],
                **({"metadata": match.record.metadata} if asked.include_metadata and match.record.metadata else {}),
            }
            for match in matches
        ],
        "namespace": asked.namespace,
        "usage": {"readUnits": 1},
    }
    if len(msgspec.json.encode(answer)) > _MAX_ANSWER_BYTES:
        raise invalid("the result exceeds the limit of 4 MB; choose a lower topK or exclude values and metadata")
    return answer


def delete(records: Records, body: bytes, _query: Query) -> object:
    asked = _decoded(body, _Delete)
    namespace = _named(asked.namespace)
    if asked.filter is not None:
        raise invalid("Serverless and Starter indexes do not support deleting with metadata filtering")
    if (asked.ids is None) == (not asked.delete_all):
        raise invalid("Exactly one of ids and deleteAll must be provided")
    if namespace not in records.names:
        raise Failure(404, "Namespace not found")
    if asked.ids is None:
        records.delete_all(namespace)
    elif len(asked.ids) > _MAX_RECORDS:
        raise invalid(f"Request has {len(asked.ids)} ids, which exceeds the limit of {_MAX_RECORDS}")
    else:
        records.delete(namespace, asked.ids)
    return {}


def fetch(records: Records, _body: bytes, query: Query) -> object:
    ids = query.get("ids", [])
    if not 1 <= len(ids) <= _MAX_RECORDS:
        raise invalid(f"1 to {_MAX_RECORDS} ids can be fetched, got {len(ids)}")
    namespace = query.get("namespace", [""])[0]
    held = records.visible(_named(namespace))
    vectors = {
        each: {"id": each, "values": record.values, **({"metadata": record.metadata} if record.metadata else {})}
        for each in ids
        if (record := held.get(each)) is not None
    }
    return {"vectors": vectors, "namespace": namespace, "usage": {"readUnits": 1}}


def listing(records: Records, _body: bytes, query: Query) -> object:
    namespace = query.get("namespace", [""])[0]
    prefix, after = query.get("prefix", [""])[0], query.get("paginationToken", [""])[0]
    limit = int(query.get("limit", [str(_MAX_LISTED)])[0])
    if not 1 <= limit <= _MAX_LISTED:
        raise invalid(f"limit must be between 1 and {_MAX_LISTED}, got {limit}")
    ids = sorted(each for each in records.visible(_named(namespace)) if each.startswith(prefix) and each > after)
    page = ids[:limit]
    rest = {"pagination": {"next": page[-1]}} if len(ids) > limit else {}
    return {"vectors": [{"id": each} for each in page], "namespace": namespace, "usage": {"readUnits": 1}, **rest}


def stats(records: Records, body: bytes, _query: Query) -> object:
    if _decoded(body, _Stats).filter is not None:
        raise invalid("Serverless and Starter indexes do not support describing index stats with metadata filtering")
    records.settle()
    counts = {name: len(held) for name, held in records.namespaces.items()}
    return {
        "namespaces": {name: {"vectorCount": count} for name, count in counts.items()},
        "dimension": records.dimension,
        "indexFullness": 0.0,
        "totalVectorCount": sum(counts.values()),
        "metric": records.metric,
        "vectorType": "dense",
    }


def namespaces(records: Records, _body: bytes, query: Query) -> object:
    records.settle()
    after, limit = query.get("paginationToken", [""])[0], int(query.get("limit", ["100"])[0])
    names = sorted(name for name in records.namespaces if name > after)
    page = names[:limit]
    rest = {"pagination": {"next": page[-1]}} if len(names) > limit else {}
    return {
        "namespaces": [{"name": name, "record_count": len(records.namespaces[name])} for name in page],
        "total_count": len(records.namespaces),
        **rest,
    }


OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("POST", "vectors/upsert"): upsert,
    ("POST", "query"): query,
    ("POST", "vectors/delete"): delete,
    ("GET", "vectors/fetch"): fetch,
    ("GET", "vectors/list"): listing,
    ("POST", "describe_index_stats"): stats,
    ("GET", "describe_index_stats"): stats,
    ("GET", "namespaces"): namespaces,
}


def one_namespace(method: str, records: Records, name: str) -> object:
    """`GET` or `DELETE` of `/namespaces/{name}`. Raises Failure."""
    if _named(name) not in records.names:
        raise Failure(404, f"Namespace {name} not found")
    if method == "DELETE":
        records.drop(_named(name))
        return {}
    return {"name": name, "record_count": len(records.visible(_named(name)))}


def _decoded(body: bytes, kind: type[_Body]) -> _Body:
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise invalid(str(error)) from None


def _named(namespace: str) -> str:
    if not namespace.isascii() or "\x00" in namespace or len(namespace) > _MAX_ID:
        raise invalid("Namespace must be ASCII without NUL and at most 512 characters")
    return namespace or _DEFAULT


def _record(given: _Vector, records: Records) -> Record:
    if not 1 <= len(given.id) <= _MAX_ID or not given.id.isascii() or "\x00" in given.id:
        raise invalid(f"Vector ID must be ASCII, 1 to {_MAX_ID} characters")
    values = vector_of(given.values, records.dimension)
    if not any(values):
        raise invalid(f"Dense vectors must contain at least one non-zero value. Vector ID {given.id} contains only zeros.")
    return Record(given.id, values, unit_of(values), metadata_of(given.id, given.metadata))


def _vector_of_query(asked: _Query, records: Records, namespace: str) -> tuple[float, ...] | None:
    if asked.vector is not None:
        vector = vector_of(asked.vector, records.dimension)
        if not any(vector):
            raise invalid("Dense vectors must contain at least one non-zero value.")
        return vector
    record = records.visible(namespace).get(asked.id or "")
    return None if record is None else record.values
