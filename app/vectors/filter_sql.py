"""Filters as SQL conditions over a column of metadata. They mean what `matches` says; a property test compares the two.

Strings are ordered by their bytes in UTF-8, which is the order of their code points, whatever the database's collation is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Numeric, Text, and_, any_, bindparam, case, cast, false, func, literal, not_, or_
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.sql import operators

from app.vectors.filters import AllOf, AnyOf, FieldTest, Filter, MetadataOperator, NoneOf, Scalar

_ORDERS: Mapping[MetadataOperator, Callable[[Any, Any], Any]] = {
    MetadataOperator.GT: operators.gt,
    MetadataOperator.GTE: operators.ge,
    MetadataOperator.LT: operators.lt,
    MetadataOperator.LTE: operators.le,
}


def filter_condition(where: Filter, metadata: ColumnElement[Any]) -> ColumnElement[bool]:
    """`metadata` is a JSONB column with what `filterable` returns. The condition is never null."""
    match where:
        case AllOf(parts):
            return and_(*(filter_condition(part, metadata) for part in parts))
        case AnyOf(parts):
            return or_(*(filter_condition(part, metadata) for part in parts))
        case NoneOf(parts):
            return not_(or_(*(filter_condition(part, metadata) for part in parts)))
        case FieldTest():
            return _test(where, metadata)


def _test(test: FieldTest, metadata: ColumnElement[Any]) -> ColumnElement[bool]:
    value = metadata.op("->", return_type=JSONB())(literal(test.field, Text))
    if isinstance(test.value, tuple):
        wanted = cast(bindparam(None, [json.dumps(each) for each in test.value], ARRAY(Text)), ARRAY(JSONB))
        return func.coalesce(value == any_(wanted), false())
    if test.op in _ORDERS:
        return _order(test.op, test.value, value, metadata.op("->>", return_type=Text())(literal(test.field, Text)))
    is_equal: ColumnElement[bool] = func.coalesce(value == _json(test.value), false())
    return not_(is_equal) if test.op is MetadataOperator.NE else is_equal


def _order(op: MetadataOperator, wanted: Scalar, value: ColumnElement[Any], words: ColumnElement[str]) -> ColumnElement[bool]:
    """The case makes sure that only a value of the right type is converted."""
    kind = func.coalesce(func.jsonb_typeof(value), "")
    if isinstance(wanted, str):
        return case((kind == "string", _ORDERS[op](words.collate("C"), literal(wanted, Text))), else_=false())
    number = cast(literal(repr(wanted), Text), Numeric)
    return case((kind == "number", _ORDERS[op](cast(words, Numeric), number)), else_=false())


def _json(value: Scalar) -> ColumnElement[Any]:
    return cast(literal(json.dumps(value), Text), JSONB)
