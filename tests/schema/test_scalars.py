from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated

import pytest
import strawberry
from hypothesis import given
from hypothesis import strategies as st
from strawberry.schema.config import StrawberryConfig

from resolvers.inputs.paging import Cursor
from schema.scalars import (
    JSON,
    JSON_LEVELS,
    SCALARS,
    BigInt,
    check_cursor,
    check_json,
    parse_big_int,
    parse_date_time,
    parse_decimal,
    print_big_int,
    print_date_time,
    print_decimal,
)


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


class TestDateTime:
    @pytest.mark.parametrize(
        ("text", "printed"),
        [
            ("2026-03-01T00:00:00Z", "2026-03-01T00:00:00Z"),
            ("2026-03-01t00:00:00z", "2026-03-01T00:00:00Z"),
            ("2026-03-01T05:45:00.250+05:45", "2026-03-01T00:00:00.250000Z"),
            ("2026-02-28T19:00:00-05:00", "2026-03-01T00:00:00Z"),
        ],
    )
    def test_any_offset_is_one_instant_in_utc(self, text: str, printed: str) -> None:
        assert print_date_time(parse_date_time(text)) == printed

    @pytest.mark.parametrize(
        ("value", "microsecond"),
        [
            ("2026-03-01T00:00:00.1Z", 100_000),
            ("2026-03-01T00:00:00.123456Z", 123_456),
            ("2026-03-01T00:00:00.123456789Z", 123_456),
            ("2026-03-01T00:00:00.999999999+00:00", 999_999),
            ("2026-03-01T00:00:00.0000009Z", 0),
        ],
    )
    def test_a_fraction_is_cut_to_microseconds(self, value: str, microsecond: int) -> None:
        assert parse_date_time(value) == datetime(2026, 3, 1, microsecond=microsecond, tzinfo=UTC)

    @pytest.mark.parametrize(
        "value",
        [
            "2026-03-01T00:00:00",
            "2026-03-01",
            "2026-03-01 00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-03-01T24:00:01Z",
            "2026-03-01T00:00:00.Z",
            "2026-03-01T00:00:00,5Z",
            "0001-01-01T00:00:00+05:00",
            "20260301T000000Z",
            "２０２６-03-01T00:00:00Z",
            "2026-03-01T00:00:00Z\0",
            "",
            1767225600,
            None,
        ],
    )
    def test_what_is_no_instant_is_refused(self, value: object) -> None:
        with pytest.raises(ValueError, match=r"a time is|must be in|day is out"):
            parse_date_time(value)

    def test_a_naive_result_is_refused(self) -> None:
        with pytest.raises(ValueError, match="not an instant"):
            print_date_time(datetime(2026, 3, 1))  # noqa: DTZ001  (naive on purpose)

    @given(
        st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=9, minutes=30))])).filter(lambda at: at.year > 1)
    )
    def test_what_is_printed_is_read_as_the_same_instant(self, instant: datetime) -> None:
        assert parse_date_time(print_date_time(instant)) == instant


class TestDecimal:
    @pytest.mark.parametrize("text", ["0", "-0.5", "12.50", "999999999999999999.999999999999", "0.000000000001"])
    def test_exact_text_is_taken(self, text: str) -> None:
        assert parse_decimal(text) == Decimal(text)

    @pytest.mark.parametrize(
        "value",
        [
            "NaN", "sNaN", "Infinity", "-Infinity", "1E+999999999", "1e5", "0.0000000000001", "1000000000000000000",
            "1_000", " 1", "1 ", "+1", ".5", "5.", "01", "", "١", "1\0", 1, 1.5, True, None, ["1"],
        ],
    )  # fmt: skip
    def test_anything_else_is_refused(self, value: object) -> None:
        with pytest.raises(ValueError, match="an amount is text"):
            parse_decimal(value)

    @pytest.mark.parametrize(
        ("amount", "printed"),
        [("20.00", "20"), ("2E+1", "20"), ("-0", "0"), ("0.00150", "0.0015"), ("1E-12", "0.000000000001")],
    )
    def test_prints_without_exponent_or_trailing_zeros(self, amount: str, printed: str) -> None:
        assert print_decimal(Decimal(amount)) == printed

    @pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("Infinity"), Decimal("1E-13"), 1.5, 1, "1"])
    def test_an_inexact_result_is_refused(self, value: object) -> None:
        with pytest.raises(ValueError, match=r"not a finite decimal|more than 12 digits"):
            print_decimal(value)

    @given(st.decimals(min_value=-(10**17), max_value=10**17, places=12))
    def test_what_is_printed_is_read_as_the_same_amount(self, amount: Decimal) -> None:
        assert parse_decimal(print_decimal(amount)) == amount


class TestBigInt:
    @pytest.mark.parametrize("number", [0, -1, 2**53 + 1, 2**63 - 1, -(2**63)])
    def test_64_bits_go_through(self, number: int) -> None:
        assert parse_big_int(print_big_int(number)) == number

    @pytest.mark.parametrize("value", ["9223372036854775808", "1.0", "1e3", "", "0x1", "١", "01", 1, True, None])
    def test_anything_else_is_refused(self, value: object) -> None:
        with pytest.raises(ValueError, match="a whole number"):
            parse_big_int(value)

    @pytest.mark.parametrize("value", [2**63, True, 1.0, "1"])
    def test_a_result_over_64_bits_is_refused(self, value: object) -> None:
        with pytest.raises(ValueError, match="not a whole number"):
            print_big_int(value)


class TestJson:
    @pytest.mark.parametrize(
        "value",
        [None, True, 0, -1.5, "text", [], {}, {"a": [1, {"b": None}]}, "é😀", 2**63 - 1, nested(JSON_LEVELS)],
    )
    def test_a_json_value_goes_through(self, value: object) -> None:
        assert check_json(value) == value

    @pytest.mark.parametrize(
        "value",
        [
            math.nan, math.inf, [-math.inf], {"a": {"b": math.nan}}, "a\0b", {"a\0": 1}, ["\ud800"], 10**30, {1: 2},
            {"a": object()}, nested(JSON_LEVELS + 1), nested(900), "x" * 70_000, ["x" * 1000] * 70,
        ],
    )  # fmt: skip
    def test_what_cannot_be_sent_or_stored_is_refused(self, value: object) -> None:
        with pytest.raises((ValueError, TypeError), match="JSON"):
            check_json(value)


class TestCursor:
    def test_is_given_back_as_it_came(self) -> None:
        assert check_cursor("WyJidWQiLCIxIl0") == "WyJidWQiLCIxIl0"

    @pytest.mark.parametrize("value", ["", "a b", "a\0", "é", "x" * 1025, 1, None])
    def test_anything_else_is_refused(self, value: object) -> None:
        with pytest.raises(ValueError, match="a cursor must be"):
            check_cursor(value)


def echo(
    at: Annotated[datetime | None, strawberry.argument(description="It.")] = strawberry.UNSET,
    amount: Annotated[Decimal | None, strawberry.argument(description="It.")] = strawberry.UNSET,
    count: Annotated[BigInt | None, strawberry.argument(description="It.")] = strawberry.UNSET,
    value: Annotated[JSON | None, strawberry.argument(description="It.")] = strawberry.UNSET,
    cursor: Annotated[Cursor | None, strawberry.argument(description="It.")] = strawberry.UNSET,
) -> str:
    return repr([given for given in (at, amount, count, value, cursor) if given is not strawberry.UNSET])


@strawberry.type
class Query:
    echo: str = strawberry.field(resolver=echo)

    @strawberry.field
    def amount(self) -> Decimal:
        return Decimal("NaN")

    @strawberry.field
    def at(self) -> datetime:
        return datetime(2026, 3, 1)  # noqa: DTZ001  (naive on purpose)

    @strawberry.field
    def value(self) -> JSON:
        return JSON({"a": math.nan})


ECHO = strawberry.Schema(Query, config=StrawberryConfig(scalar_map=SCALARS))


def errors(document: str, **variables: object) -> list[str]:
    result = asyncio.run(ECHO.execute(document, variables))
    return [error.message for error in result.errors or []]


class TestInDocuments:
    @pytest.mark.parametrize(
        "arguments",
        [
            'amount: "NaN"', 'amount: "1E+999999999"', "amount: 1.5", "amount: 1", 'at: "2026-03-01T00:00:00"', "count: 1",
            'count: "9223372036854775808"', "value: 1e999", "value: [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]", 'value: {a: "\\u0000"}',
            "value: " + "9" * 5000, "value: " + "[" * 190 + "]" * 190, 'cursor: "a b"', "cursor: 1",
        ],
    )  # fmt: skip
    def test_a_literal_is_refused_before_anything_runs(self, arguments: str) -> None:
        assert len(errors(f"{{ echo({arguments}) }}")) == 1

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            ("Decimal", "NaN"), ("Decimal", 1.5), ("DateTime", "2026-03-01T00:00:00"), ("BigInt", 2**70), ("JSON", math.inf),
            ("JSON", {"deep": nested(17)}), ("Cursor", "\0"),
        ],
    )  # fmt: skip
    def test_a_variable_is_refused_before_anything_runs(self, kind: str, value: object) -> None:
        argument = {"Decimal": "amount", "DateTime": "at", "BigInt": "count", "JSON": "value", "Cursor": "cursor"}[kind]
        assert len(errors(f"query($it: {kind}) {{ echo({argument}: $it) }}", it=value)) == 1

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("name", ["amount", "at", "value"])
    def test_a_result_that_is_not_exact_is_an_error(self, name: str) -> None:
        assert len(errors(f"{{ {name} }}")) == 1

    @pytest.mark.parametrize("value", ["a\0", nested(JSON_LEVELS), ["x" * 1000] * 70, [0] * 40_000])
    def test_so_is_a_variable_within_a_literal(self, value: object) -> None:
        found = errors("query($v: JSON) { echo(value: {a: [1, $v]}) }", v=value)
        assert len(found) == 1
        assert "JSON" in found[0]

    def test_a_variable_within_a_literal_that_is_left_out_is_null_in_a_list_and_no_field_of_an_object(self) -> None:
        result = asyncio.run(ECHO.execute("query($v: JSON) { echo(value: {a: [$v], b: $v, c: ONE}) }"))
        assert result.data == {"echo": "[{'a': [None], 'c': 'ONE'}]"}

    def test_good_literals_and_variables_arrive_as_domain_values(self) -> None:
        result = asyncio.run(
            ECHO.execute('query($v: JSON) { echo(amount: "1.50", count: "7", value: {a: [1, $v]}) }', {"v": "x"})
        )
        assert result.data == {"echo": "[Decimal('1.50'), 7, {'a': [1, 'x']}]"}
