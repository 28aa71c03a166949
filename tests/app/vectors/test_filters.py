"""What filters may contain and match, and that the definition keeps its laws for any metadata."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import Refused
from app.domain.problems import InvalidInput
from app.vectors.filters import (
    AllOf,
    AnyOf,
    FieldTest,
    Filter,
    MetadataOperator,
    NoneOf,
    Scalar,
    check_filter,
    filterable,
    matches,
)

SCALARS = st.one_of(st.text(max_size=3), st.booleans(), st.integers(-3, 3), st.floats(-3, 3))
METADATA = st.dictionaries(st.sampled_from("abc"), SCALARS)
OPS = st.sampled_from([op for op in MetadataOperator if op is not MetadataOperator.IN])


def field_test(op: str, value: Scalar | tuple[Scalar, ...], field: str = "a") -> FieldTest:
    return FieldTest(field, MetadataOperator(op), value)


def fault(where: Filter) -> InvalidInput:
    with pytest.raises(Refused) as refused:
        check_filter(where)
    assert isinstance(refused.value.reason, InvalidInput)
    return refused.value.reason


def nested(levels: int) -> Filter:
    where: Filter = field_test("EQ", 1)
    for _ in range(levels):
        where = AllOf((where,))
    return where


class TestMatches:
    @pytest.mark.parametrize(
        ("test", "value", "expected"),
        [
            (field_test("EQ", "x"), "x", True),
            (field_test("EQ", 1), 1.0, True),
            (field_test("EQ", 1), True, False),
            (field_test("EQ", "1"), 1, False),
            (field_test("NE", 1), True, True),
            (field_test("NE", "x"), "x", False),
            (field_test("GT", 1), 1.5, True),
            (field_test("GT", 1), 1, False),
            (field_test("GTE", 1), 1, True),
            (field_test("LT", "2026-02"), "2026-01-31", True),
            (field_test("LTE", "b"), 1, False),
            (field_test("LT", 5), "1", False),
            (field_test("GT", 0), True, False),
            (field_test("IN", ("x", "y")), "y", True),
            (field_test("IN", (1, 2)), True, False),
        ],
    )
    def test_one_test_on_one_value(self, test: FieldTest, value: Scalar, *, expected: bool) -> None:
        assert matches(test, {"a": value}) is expected

    @pytest.mark.parametrize("op", [op for op in MetadataOperator if op is not MetadataOperator.IN])
    def test_a_missing_field_fails_every_test_but_ne(self, op: MetadataOperator) -> None:
        assert matches(FieldTest("a", op, 1), {}) is (op is MetadataOperator.NE)

    def test_a_missing_field_passes_none(self) -> None:
        assert matches(NoneOf((field_test("EQ", 1),)), {})

    @given(METADATA, OPS, SCALARS)
    def test_ne_and_none_of_eq_are_the_same(self, metadata: dict[str, Scalar], op: MetadataOperator, value: Scalar) -> None:
        test = FieldTest("a", op, value) if not isinstance(value, bool) else field_test("EQ", value)
        assert matches(NoneOf((test,)), metadata) is not matches(test, metadata)
        assert matches(field_test("NE", value), metadata) is not matches(field_test("EQ", value), metadata)

    @given(METADATA, st.lists(st.tuples(st.sampled_from("abc"), SCALARS), min_size=1, max_size=4))
    def test_groups_are_and_or_and_nor(self, metadata: dict[str, Scalar], pairs: list[tuple[str, Scalar]]) -> None:
        parts = tuple(FieldTest(name, MetadataOperator.EQ, value) for name, value in pairs)
        passed = [matches(part, metadata) for part in parts]
        assert matches(AllOf(parts), metadata) is all(passed)
        assert matches(AnyOf(parts), metadata) is any(passed)
        assert matches(NoneOf(parts), metadata) is not any(passed)


class TestFilterable:
    def test_other_types_and_deeper_fields_are_left_out(self) -> None:
        metadata = {"s": "x", "b": False, "i": 2**53, "f": 0.5, "n": None, "l": [1], "o": {"s": "x"}, "big": 2**53 + 1}
        assert filterable(metadata) == {"s": "x", "b": False, "i": 2**53, "f": 0.5}

    def test_no_metadata_is_no_field(self) -> None:
        assert filterable(None) == {}


class TestCheck:
    def test_five_levels_are_allowed(self) -> None:
        check_filter(nested(5))

    def test_six_levels_are_refused_with_the_path(self) -> None:
        assert fault(nested(6)).path == ("filter", *["all", "0"] * 5, "all")

    @pytest.mark.parametrize(
        ("where", "path"),
        [
            (AnyOf(()), ("filter", "any")),
            (AllOf((field_test("EQ", 1), NoneOf(()))), ("filter", "all", "1", "none")),
            (field_test("IN", (1, "x")), ("filter", "where", "value", "1")),
            (field_test("IN", (1, True)), ("filter", "where", "value", "1")),
            (field_test("IN", ()), ("filter", "where", "value")),
            (field_test("IN", 1), ("filter", "where", "value")),
            (field_test("EQ", (1,)), ("filter", "where", "value")),
            (field_test("GT", True), ("filter", "where", "value")),
            (field_test("EQ", 2**53 + 1), ("filter", "where", "value")),
            (field_test("EQ", float("nan")), ("filter", "where", "value")),
            (field_test("EQ", 1, field=""), ("filter", "where", "field")),
            (field_test("EQ", 1, field="x" * 257), ("filter", "where", "field")),
            (NoneOf((field_test("EQ", None),)), ("filter", "none", "0", "where", "value")),  # type: ignore[arg-type]
            (field_test("EQ", {"deep": 1}), ("filter", "where", "value")),  # type: ignore[arg-type]
        ],
    )
    def test_a_filter_that_cannot_be_tested_is_refused_with_the_path(self, where: Filter, path: tuple[str, ...]) -> None:
        assert fault(where).path == path

    def test_too_many_tests_are_refused(self) -> None:
        assert fault(AnyOf(tuple(field_test("EQ", number) for number in range(101)))).path == ("filter",)
