"""The scalars of the contract. They refuse values that are not exact: in literals, in variables and in results.

A value that a parser accepts here is safe for PostgreSQL, for JSON and for arithmetic: no NaN, no infinity, no time without its
offset, no text that UTF-8 or a database column cannot hold.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import NewType

import msgspec
import strawberry
from graphql import GraphQLScalarType, ListValueNode, ObjectValueNode, ValueNode, VariableNode, value_from_ast_untyped
from strawberry.types.scalar import ScalarDefinition

from app.domain.money import PLACES, format_decimal
from resolvers.inputs.checks import unfit_text
from resolvers.inputs.paging import Cursor

BigInt = NewType("BigInt", int)
JSON = strawberry.scalars.JSON

JSON_LEVELS = 16
JSON_BYTES = 64 * 1024
RETURNED_LEVELS = 256
_TOO_LARGE = f"a JSON value has at most {JSON_BYTES // 1024} KiB"

_DATE_TIME = re.compile(
    r"(?P<whole>[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2})"
    r"(?P<fraction>\.[0-9]+)?(?P<offset>[Zz]|[+-][0-9]{2}:[0-9]{2})",
)
_FRACTION_LENGTH = len(".123456")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,12})?")
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_CURSOR = re.compile(r"[!-~]{1,1024}")
_INT64 = range(-(2**63), 2**63)


def parse_date_time(value: object) -> datetime:
    found = _DATE_TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("a time is RFC 3339 text with an offset, such as 2026-03-01T00:00:00Z")
    whole, fraction, offset = found["whole"], found["fraction"] or "", found["offset"]
    try:
        return datetime.fromisoformat(f"{whole}{fraction[:_FRACTION_LENGTH]}{offset}".upper()).astimezone(UTC)
    except OverflowError:
        raise ValueError("a time is between the years 1 and 9999 in UTC") from None


def print_date_time(value: object) -> str:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError("not an instant")
    text = (value if value.tzinfo is UTC else value.astimezone(UTC)).isoformat()
    return text.removesuffix("+00:00") + "Z"


def parse_decimal(value: object) -> Decimal:
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        raise ValueError(
            f'an amount is text, such as "12.50": up to 18 digits, then up to {PLACES} after the point, without exponent'
        )
    return Decimal(value)


def print_decimal(value: object) -> str:
    if not isinstance(value, Decimal) or not value.is_finite():
        raise ValueError("not a finite decimal")
    text = format_decimal(value)
    if len(text.partition(".")[2]) > PLACES:
        raise ValueError(f"more than {PLACES} digits after the point")
    return text


def parse_big_int(value: object) -> int:
    if not isinstance(value, str) or not _WHOLE.fullmatch(value) or int(value) not in _INT64:
        raise ValueError('a whole number of up to 64 bits is text, such as "9007199254740993"')
    return int(value)


def print_big_int(value: object) -> str:
    if not isinstance(value, int) or isinstance(value, bool) or value not in _INT64:
        raise ValueError("not a whole number of up to 64 bits")
    return str(value)


def check_cursor(value: object) -> str:
    if not isinstance(value, str) or not _CURSOR.fullmatch(value):
        raise ValueError("a cursor must be passed back unchanged")
    return value


class _Room:
    """What a JSON value may still use. Every value in it needs at least one byte."""

    def __init__(self) -> None:
        self._values = JSON_BYTES

    def take(self, values: int) -> None:
        self._values -= values
        if self._values < 0:
            raise ValueError(_TOO_LARGE)


def _check_tree(value: object, levels: int, room: _Room) -> None:
    room.take(1)
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        room.take(len(value))
        if problem := unfit_text(value):
            raise ValueError(f"a text of the JSON value {problem}")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a number of the JSON value is not finite")
    elif isinstance(value, int):
        if value not in _INT64:
            raise ValueError("a whole number of the JSON value is over 64 bits")
    elif isinstance(value, (list, tuple, Mapping)):
        room.take(len(value))
        _check_branches(value, levels, room)
    else:
        raise TypeError("not a JSON value")


def _check_branches(value: list[object] | tuple[object, ...] | Mapping[object, object], levels: int, room: _Room) -> None:
    if levels == 0:
        raise ValueError(f"a JSON value has at most {JSON_LEVELS} levels")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError("a key of the JSON value is not text")
            _check_tree(key, 0, room)
        value = tuple(value.values())
    for branch in value:
        _check_tree(branch, levels - 1, room)


def check_json(value: object) -> object:
    _check_tree(value, JSON_LEVELS, _Room())
    if len(msgspec.json.encode(value)) > JSON_BYTES:
        raise ValueError(_TOO_LARGE)
    return value


def check_returned_json(value: object) -> object:
    """JSON that a completion returns, or that a caller passes back. It may be as large as the body."""
    left = [(value, RETURNED_LEVELS)]
    while left:
        found, levels = left.pop()
        if isinstance(found, str):
            if problem := unfit_text(found):
                raise ValueError(f"a text of the JSON value {problem}")
        elif isinstance(found, float):
            if not math.isfinite(found):
                raise ValueError("a number of the JSON value is not finite")
        elif isinstance(found, (list, tuple, Mapping)):
            if levels == 0:
                raise ValueError(f"a JSON value has at most {RETURNED_LEVELS} levels")
            branches = [*found, *found.values()] if isinstance(found, Mapping) else found
            left += ((branch, levels - 1) for branch in branches)
        elif found is not None and not isinstance(found, int):
            raise TypeError("not a JSON value")
    return value


def check_returned_json_literal(node: ValueNode, variables: Mapping[str, object] | None = None) -> object:
    return check_returned_json(_read_literal(node, variables or {}))


def check_json_literal(node: ValueNode, variables: Mapping[str, object] | None = None) -> object:
    """Variables inside a literal are inserted unchanged. No new value is built for each of their uses."""
    return check_json(_read_literal(node, variables or {}))


def _read_literal(node: ValueNode, variables: Mapping[str, object]) -> object:
    if isinstance(node, VariableNode):
        return variables.get(node.name.value)
    if isinstance(node, ListValueNode):
        return [_read_literal(item, variables) for item in node.values]
    if isinstance(node, ObjectValueNode):
        return {
            field.name.value: _read_literal(field.value, variables)
            for field in node.fields
            if not isinstance(field.value, VariableNode) or field.value.name.value in variables
        }
    return value_from_ast_untyped(node)


def _json_scalar(check: Callable[[object], object], check_literal: Callable[..., object]) -> ScalarDefinition:
    definition = strawberry.scalar(
        name="JSON",
        description="Any JSON value: finite numbers, at most 64 KiB and 16 levels. A value that a completion returned can be "
        "larger. If it is passed back, only the limits of the request body apply.",
        serialize=check,
        parse_value=check,
    )
    definition.implementation = GraphQLScalarType(
        name=definition.name,
        description=definition.description,
        coerce_output_value=check,
        parse_value=check,
        parse_literal=check_literal,
        extensions={"strawberry-definition": definition},
    )
    return definition


SCALARS: Mapping[object, ScalarDefinition] = {
    datetime: strawberry.scalar(
        name="DateTime",
        description="RFC 3339 instant in UTC with a trailing Z; a value without an offset is rejected. Such as "
        "`2026-03-01T00:00:00Z`; another offset is accepted and converted. A fraction of a second is cut to microseconds.",
        serialize=print_date_time,
        parse_value=parse_date_time,
    ),
    Decimal: strawberry.scalar(
        name="Decimal",
        description='Exact decimal as a string, at most 12 fraction digits, no exponent, no NaN. Such as `"0.0015"`.',
        serialize=print_decimal,
        parse_value=parse_decimal,
    ),
    BigInt: strawberry.scalar(
        name="BigInt",
        description='Whole number of up to 64 bits, as a string, such as `"9007199254740993"`.',
        serialize=print_big_int,
        parse_value=parse_big_int,
    ),
    JSON: _json_scalar(check_json, check_json_literal),
    Cursor: strawberry.scalar(
        name="Cursor",
        description="Opaque position in a list or stream. Pass it back unchanged.",
        serialize=check_cursor,
        parse_value=check_cursor,
    ),
}

RETURNED_JSON: Mapping[object, ScalarDefinition] = {JSON: _json_scalar(check_returned_json, check_returned_json_literal)}
"""The scalar of a schema whose input fields check JSON themselves, as those of `schema.inputs` do."""
