"""Metadata, and the filters over it.

A test on a field that a record does not have fails, also with `$ne` and `$nin`. Only `$exists` finds such records.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, TypeGuard

import msgspec

from simulator.pinecone.errors import invalid

Value: TypeAlias = str | bool | float | list[str]
Metadata: TypeAlias = Mapping[str, Value]
Matcher: TypeAlias = Callable[[Metadata], bool]

MAX_METADATA_BYTES = 40 * 1024
_MAX_LISTED = 10_000
_ORDERS: Mapping[str, Callable[[float, float], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def metadata_of(record: str, given: Mapping[str, object] | None) -> dict[str, Value]:
    """Returns what is kept. Numbers become 64-bit floats. Raises Failure."""
    kept = {name: _value(record, name, value) for name, value in (given or {}).items()}
    size = len(msgspec.json.encode(kept))
    if size > MAX_METADATA_BYTES:
        raise invalid(f"Metadata size is {size} bytes, which exceeds the limit of {MAX_METADATA_BYTES} bytes per vector")
    return kept


def _value(record: str, name: str, value: object) -> Value:
    if name.startswith("$"):
        raise invalid(f"Metadata key cannot start with $: got '{name}' for vector '{record}'")
    if isinstance(value, str | bool):
        return value
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return [str(each) for each in value]
    shown = msgspec.json.encode(value).decode()[:60]
    raise invalid(
        f"Metadata value must be a string, number, boolean or list of strings, got '{shown}' for field '{name}' of '{record}'"
    )


def compiled(where: object) -> Matcher:
    """Raises Failure if the filter is not one."""
    if not isinstance(where, dict):
        raise invalid("filter must be an object")
    parts = [_joined(name, given) if name.startswith("$") else _field(name, given) for name, given in where.items()]
    return lambda metadata: all(part(metadata) for part in parts)


def _joined(name: str, given: object) -> Matcher:
    if name not in {"$and", "$or"}:
        raise invalid(f"invalid operator {name}; only $and and $or join conditions")
    if not isinstance(given, list) or not given:
        raise invalid(f"{name} must be a list of at least one condition")
    parts = [compiled(each) for each in given]
    if name == "$and":
        return lambda metadata: all(part(metadata) for part in parts)
    return lambda metadata: any(part(metadata) for part in parts)


def _field(name: str, given: object) -> Matcher:
    tests = given if isinstance(given, dict) else {"$eq": given}
    if not tests:
        raise invalid(f"illegal condition for field {name}, got {{}}")
    matchers = [_test(name, op, value) for op, value in tests.items()]
    return lambda metadata: all(matcher(metadata) for matcher in matchers)


def _test(name: str, op: str, wanted: object) -> Matcher:
    if op == "$exists" and isinstance(wanted, bool):
        return lambda metadata: (name in metadata) is wanted
    if op in _ORDERS and _is_number(wanted):
        order, bound = _ORDERS[op], float(wanted)
        return lambda metadata: _is_number(value := metadata.get(name)) and order(value, bound)
    if op in {"$eq", "$ne"} and isinstance(wanted, str | bool | int | float):
        return _among(name, [wanted], negated=op == "$ne")
    if op in {"$in", "$nin"} and isinstance(wanted, list) and all(isinstance(each, str | bool | int | float) for each in wanted):
        if len(wanted) > _MAX_LISTED:
            raise invalid(f"{op} has {len(wanted)} values; the limit is {_MAX_LISTED}")
        return _among(name, wanted, negated=op == "$nin")
    raise invalid(f"illegal condition for field {name}, got {msgspec.json.encode({op: wanted}).decode()[:200]}")


def _among(name: str, wanted: Sequence[object], *, negated: bool) -> Matcher:
    keys = {_key(each) for each in wanted}

    def matches(metadata: Metadata) -> bool:
        value = metadata.get(name)
        if value is None:
            return False
        held = value if isinstance(value, list) else [value]
        return any(_key(each) in keys for each in held) is not negated

    return matches


def _key(value: object) -> tuple[bool, object]:
    """True is not 1, though Python says so."""
    return isinstance(value, bool), value


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
