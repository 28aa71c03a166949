"""Metadata and filters for stores that order only numbers, and in which a value of another type must not match.

Each field becomes keys of one type each: `n:field` a number, `s:field` a string, `b:field` a boolean. Stores order only numbers,
so `p:field` holds the first bytes of a string as a number, which has the order of the strings. What a typed filter lets through
is everything that `filters.matches` lets through. If it orders strings, it can be more: then `is_exact` is false, and the caller
tests the metadata once more.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from app.vectors.filters import AllOf, AnyOf, FieldTest, Filter, MetadataOperator, NoneOf, Scalar, type_of

Where: TypeAlias = dict[str, object]
Absent: TypeAlias = Callable[[str, str], Where]
"""Returns the filter for "there is no value of this type", given the letter of the type and the field."""

Number: TypeAlias = Callable[[float], float]
"""How a store keeps a number: `float`, or `sortable` if it does not keep every digit of a float."""

_PREFIX_BYTES = 6
_ALL_BUT_SIGN = 2**63 - 1
_LETTERS: Mapping[type, str] = {float: "n", str: "s", bool: "b"}
_ORDERS = {
    MetadataOperator.GT: "$gt",
    MetadataOperator.GTE: "$gte",
    MetadataOperator.LT: "$lt",
    MetadataOperator.LTE: "$lte",
}
_OPPOSITES = {"$gt": "$lte", "$gte": "$lt", "$lt": "$gte", "$lte": "$gt"}


def sortable(number: float) -> int:
    """A whole number of 64 bits, in the order of the floats."""
    (bits,) = struct.unpack(">q", struct.pack(">d", number + 0.0))
    return int(bits) if bits >= 0 else int(bits) ^ _ALL_BUT_SIGN


def from_sortable(whole: float) -> float:
    bits = int(whole)
    (number,) = struct.unpack(">d", struct.pack(">q", bits if bits >= 0 else bits ^ _ALL_BUT_SIGN))
    return float(number)


def typed_metadata(metadata: Mapping[str, Scalar], number: Number = float) -> dict[str, Scalar]:
    """`filterable` has only numbers that are the same as 64-bit floats."""
    return dict(_typed(metadata, number))


def _typed(metadata: Mapping[str, Scalar], number: Number) -> Iterator[tuple[str, Scalar]]:
    for field, value in metadata.items():
        if isinstance(value, str):
            yield f"s:{field}", value
            yield f"p:{field}", _prefix(value)
        else:
            yield f"{letter_of(value)}:{field}", value if isinstance(value, bool) else number(value)


def plain_metadata(typed: Mapping[str, object] | None, number: Number = float) -> dict[str, Scalar]:
    """Returns what was given to `typed_metadata`. Other keys are ignored. `number` is the inverse of the function given there."""
    return {
        key[2:]: number(value) if key.startswith("n:") and not isinstance(value, str) else value
        for key, value in (typed or {}).items()
        if key[:2] in {"n:", "s:", "b:"} and isinstance(value, (str, bool, int, float))
    }


def letter_of(value: Scalar) -> str:
    return _LETTERS[type_of(value)]


@dataclass(frozen=True, slots=True)
class TypedFilter:
    where: Where
    is_exact: bool


def typed_filter(where: Filter, absent: Absent, number: Number = float) -> TypedFilter:
    return TypedFilter(_Typing(absent, number).of(where, negated=False), is_exact=not _orders_strings(where))


def _orders_strings(where: Filter) -> bool:
    if isinstance(where, FieldTest):
        return where.op in _ORDERS and isinstance(where.value, str)
    return any(_orders_strings(part) for part in where.parts)


class _Typing:
    """Negations are moved down to the tests, because stores have none."""

    def __init__(self, absent: Absent, number: Number) -> None:
        self._absent = absent
        self._number = number

    def of(self, where: Filter, *, negated: bool) -> Where:
        match where:
            case FieldTest():
                return self._test(where, negated=negated)
            case AllOf(parts):
                return _joined("$or" if negated else "$and", [self.of(part, negated=negated) for part in parts])
            case AnyOf(parts):
                return _joined("$and" if negated else "$or", [self.of(part, negated=negated) for part in parts])
            case NoneOf(parts):
                return _joined("$or" if negated else "$and", [self.of(part, negated=not negated) for part in parts])

    def _test(self, test: FieldTest, *, negated: bool) -> Where:
        if test.op is MetadataOperator.NE:
            return self._among(test.field, (test.value,), negated=not negated)
        values = test.value if isinstance(test.value, tuple) else (test.value,)
        if test.op in {MetadataOperator.EQ, MetadataOperator.IN}:
            return self._among(test.field, values, negated=negated)
        return self._order(test.field, _ORDERS[test.op], values[0], negated=negated)

    def _among(self, field: str, values: tuple[object, ...], *, negated: bool) -> Where:
        wanted = [self._stored(value) for value in values]
        letter = _letter(values[0])
        if not negated:
            return {f"{letter}:{field}": {"$in": wanted} if len(wanted) > 1 else {"$eq": wanted[0]}}
        differs: Where = {f"{letter}:{field}": {"$nin": wanted} if len(wanted) > 1 else {"$ne": wanted[0]}}
        return _joined("$or", [self._absent(letter, field), differs])

    def _order(self, field: str, order: str, value: Scalar, *, negated: bool) -> Where:
        wanted = _OPPOSITES[order] if negated else order
        if isinstance(value, str):
            # Strings with the same first bytes may be on either side.
            test: Where = {f"p:{field}": {wanted if wanted.endswith("e") else f"{wanted}e": _prefix(value)}}
            letter = "s"
        else:
            test, letter = {f"n:{field}": {wanted: self._number(value)}}, "n"
        return _joined("$or", [self._absent(letter, field), test]) if negated else test

    def _stored(self, value: object) -> Scalar:
        assert isinstance(value, (str, bool, int, float))
        return value if isinstance(value, (str, bool)) else self._number(value)


def _letter(value: object) -> str:
    assert isinstance(value, (str, bool, int, float))
    return letter_of(value)


def _joined(name: str, parts: list[Where]) -> Where:
    return parts[0] if len(parts) == 1 else {name: parts}


def _prefix(value: str) -> int:
    """UTF-8 has the order of code points, and six bytes fit exactly into a 64-bit float."""
    return int.from_bytes(value.encode("utf-8", "surrogatepass")[:_PREFIX_BYTES].ljust(_PREFIX_BYTES, b"\0"))
