"""Filters over metadata: what they may contain, and which metadata they match.

Only top-level strings, booleans and numbers can be tested; whole numbers up to 2^53, because some stores keep numbers as 64-bit
floats. Everything else in metadata is stored and shown, but for a filter it is missing. A missing field fails every test except
NE. A value of another type is not equal, and neither less nor greater. `matches` is the definition: each store does the same.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias, TypeGuard

from app.domain.errors import Refused
from app.domain.problems import InvalidInput

Scalar: TypeAlias = str | bool | int | float

MAX_DEPTH = 5
MAX_TESTS = 100
MAX_VALUES = 1000
MAX_FIELD_LENGTH = 256
_MAX_WHOLE = 2**53


class MetadataOperator(Enum):
    EQ = "EQ"
    NE = "NE"
    GT = "GT"
    GTE = "GTE"
    LT = "LT"
    LTE = "LTE"
    IN = "IN"


@dataclass(frozen=True, slots=True)
class FieldTest:
    """`value` is a tuple for IN, and a single value for every other operator. Strings are ordered by code points; booleans have
    no order."""

    field: str
    op: MetadataOperator
    value: Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class AllOf:
    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class NoneOf:
    """Matches if none of the parts does."""

    parts: tuple[Filter, ...]


Filter: TypeAlias = FieldTest | AllOf | AnyOf | NoneOf
_NAMES = {AllOf: "all", AnyOf: "any", NoneOf: "none"}
_ORDERS: Mapping[MetadataOperator, Callable[[float, float], bool]] = {
    MetadataOperator.GT: operator.gt,
    MetadataOperator.GTE: operator.ge,
    MetadataOperator.LT: operator.lt,
    MetadataOperator.LTE: operator.le,
}


def filterable(metadata: Mapping[str, object] | None) -> dict[str, Scalar]:
    """Returns the part of the metadata that filters can test."""
    return {name: value for name, value in (metadata or {}).items() if _is_scalar(value)}


def _is_scalar(value: object) -> TypeGuard[Scalar]:
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) <= _MAX_WHOLE
    if isinstance(value, float):
        return math.isfinite(value) and not (value.is_integer() and abs(value) > _MAX_WHOLE)
    return isinstance(value, (str, bool))


def type_of(value: Scalar) -> type:
    """The type that decides which values can be compared: bool, str, or float for every number."""
    return bool if isinstance(value, bool) else str if isinstance(value, str) else float


def matches(where: Filter | None, metadata: Mapping[str, Scalar]) -> bool:
    """`metadata` is `filterable`. None matches everything."""
    match where:
        case None:
            return True
        case AllOf(parts):
            return all(matches(part, metadata) for part in parts)
        case AnyOf(parts):
            return any(matches(part, metadata) for part in parts)
        case NoneOf(parts):
            return not any(matches(part, metadata) for part in parts)
        case FieldTest():
            return _passes(where, metadata.get(where.field))


def _passes(test: FieldTest, value: Scalar | None) -> bool:
    wanted = test.value if isinstance(test.value, tuple) else (test.value,)
    if test.op is MetadataOperator.NE:
        return not _is_in(value, wanted)
    if test.op in {MetadataOperator.EQ, MetadataOperator.IN}:
        return _is_in(value, wanted)
    if value is None or type_of(value) is not type_of(wanted[0]):
        return False
    return _ORDERS[test.op](value, wanted[0])  # type: ignore[arg-type]  # two numbers or two strings


def _is_in(value: Scalar | None, wanted: Sequence[Scalar]) -> bool:
    """True is not 1, though Python says so."""
    return value is not None and any(type_of(value) is type_of(each) and value == each for each in wanted)


def check_filter(where: Filter, path: tuple[str, ...] = ("filter",)) -> None:
    """Raises Refused(InvalidInput) with the path of the first fault: too deep, too much, empty, or a value that cannot be
    tested."""
    tests = _check(where, path, 0)
    if tests > MAX_TESTS:
        raise Refused(InvalidInput(f"The filter has {tests} tests; at most {MAX_TESTS} are allowed.", path))


def _check(where: Filter, path: tuple[str, ...], depth: int) -> int:
    """Returns the number of tests."""
    if isinstance(where, FieldTest):
        _check_test(where, (*path, "where"))
        return 1
    path = (*path, _NAMES[type(where)])
    if depth == MAX_DEPTH:
        raise Refused(InvalidInput(f"The filter is nested too deeply; {MAX_DEPTH} levels are allowed.", path))
    if not where.parts:
        raise Refused(InvalidInput("The list is empty.", path))
    return sum(_check(part, (*path, str(place)), depth + 1) for place, part in enumerate(where.parts))


def _check_test(test: FieldTest, path: tuple[str, ...]) -> None:
    if not 1 <= len(test.field) <= MAX_FIELD_LENGTH:
        problem = f"The name of the field has {len(test.field)} characters; 1 to {MAX_FIELD_LENGTH} are allowed."
        raise Refused(InvalidInput(problem, (*path, "field")))
    value_path = (*path, "value")
    if isinstance(test.value, tuple) != (test.op is MetadataOperator.IN):
        problem = "IN needs a list." if test.op is MetadataOperator.IN else f"{test.op.value} needs a single value."
        raise Refused(InvalidInput(problem, value_path))
    if isinstance(test.value, tuple):
        _check_list(test.value, value_path)
        return
    _check_value(test.value, value_path)
    if test.op in _ORDERS and isinstance(test.value, bool):
        raise Refused(InvalidInput("Booleans have no order; use EQ or NE.", value_path))


def _check_list(values: tuple[Scalar, ...], path: tuple[str, ...]) -> None:
    if not 1 <= len(values) <= MAX_VALUES:
        raise Refused(InvalidInput(f"The list has {len(values)} values; 1 to {MAX_VALUES} are allowed.", path))
    for place, value in enumerate(values):
        _check_value(value, (*path, str(place)))
        if type_of(value) is not type_of(values[0]):
            raise Refused(InvalidInput("The values of a list must have one type.", (*path, str(place))))


def _check_value(value: object, path: tuple[str, ...]) -> None:
    if not _is_scalar(value):
        allowed = "a string, a boolean, or a number (whole ones up to 2^53)"
        raise Refused(InvalidInput(f"Filters test only top-level values: {allowed}.", path))
