from __future__ import annotations

from typing import cast

import pytest
from graphql import OperationDefinitionNode, parse

from app.domain.errors import LimitExceeded
from app.graphql.variable_uses import MAX_CHARACTERS, MAX_OBJECTS, MAX_VALUES, Uses, VariableUses


def uses_in(text: str) -> Uses:
    document = parse(text)
    return VariableUses(document).of(cast("OperationDefinitionNode", document.definitions[0]))


class TestUses:
    @pytest.mark.parametrize(
        ("text", "uses"),
        [
            ("query($a: Int) { f(a: $a) g(a: $a) { h(b: $a) } }", {"a": 3}),
            ("query($a: Int, $b: Int) { f(x: {y: [$a, $a, {z: $b}]}) }", {"a": 2, "b": 1}),
            ("query($a: Boolean!) @x(y: $a) { f @skip(if: $a) ... @include(if: $a) { g } }", {"a": 3}),
            ("query { f(x: {y: [1]}) }", {}),
        ],
    )
    def test_are_counted_wherever_they_stand(self, text: str, uses: dict[str, int]) -> None:
        assert uses_in(text).counts == uses

    def test_in_fragments_count_as_often_as_these_are_spread(self) -> None:
        levels = 20
        fragments = " ".join(f"fragment F{level} on Q {{ ...F{level + 1} ...F{level + 1} }}" for level in range(levels))
        text = f"query($a: Int) {{ ...F0 }} {fragments} fragment F{levels} on Q {{ f(a: $a) }}"
        assert uses_in(text).counts == {"a": 2**levels}


class TestLimits:
    @pytest.mark.parametrize(
        ("value", "limit"),
        [
            ([0] * (MAX_VALUES // 2), "JSON values, at each use of a variable"),
            ([{}] * (MAX_OBJECTS // 2 + 1), "JSON objects, at each use of a variable"),
            ({"a": ["x" * (MAX_CHARACTERS // 2 + 1)]}, "characters of text, at each use of a variable"),
        ],
    )
    def test_hold_for_all_uses_together(self, value: object, limit: str) -> None:
        Uses({"v": 1}, {}).check({"v": value})
        with pytest.raises(LimitExceeded) as caught:
            Uses({"v": 2}, {}).check({"v": value})
        assert caught.value.limit == limit
        assert caught.value.had > caught.value.allowed

    def test_let_a_variable_be_left_out_or_small(self) -> None:
        Uses({"v": 400, "w": 400}, {}).check({"v": "x", "other": [0] * MAX_VALUES})
        Uses({"v": 400}, {}).check(None)

    @pytest.mark.parametrize(
        ("default", "uses", "limit", "had"),
        [
            ("[" + "0 " * 499 + "]", 101, "JSON values, at each use of a variable", 50_500),
            ("[" + "{a: 1} " * 50 + "]", 81, "JSON objects, at each use of a variable", 4_050),
            ('{a: "' + "x" * 40_000 + '"}', 839, "characters of text, at each use of a variable", 33_560_000),
        ],
    )
    def test_count_defaults_that_stand_in_the_document(self, default: str, uses: int, limit: str, had: int) -> None:
        text = f"query($v: JSON = {default}) {{ f(x: [{'$v ' * uses}]) }}"
        with pytest.raises(LimitExceeded) as caught:
            uses_in(text).check(None)
        assert (caught.value.limit, caught.value.had) == (limit, had)
        uses_in(text).check({"v": None})
        uses_in(text.replace("$v ", "", 20)).check({})
