from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import LimitExceeded
from app.graphql.body import MOST_JSON_VALUES, JsonValues, check_values

pytestmark = pytest.mark.anyio

STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
TEXTS = st.text(st.sampled_from('a\\",[{\n'), max_size=8)
TREES = st.recursive(TEXTS | st.integers(), lambda inside: st.lists(inside) | st.dictionaries(TEXTS, inside), max_leaves=8)


class TestJsonValues:
    @given(TREES, st.integers(1, 6))
    def test_what_stands_in_strings_does_not_count_however_the_text_is_cut(self, tree: object, size: int) -> None:
        raw = json.dumps(tree).encode()
        values = JsonValues()
        for start in range(0, len(raw), size):
            values._add(raw[start : start + size])
        assert values._count == len(re.findall(rb"[,{\[]", STRING.sub(b"", raw)))


class TestCheckValues:
    async def test_a_table_in_a_prompt_is_one_value(self) -> None:
        await check_values(json.dumps({"query": "1,2,[3],{4}\n" * MOST_JSON_VALUES}))

    async def test_many_values_are_refused(self) -> None:
        with pytest.raises(LimitExceeded):
            await check_values(json.dumps({"a": [1] * (MOST_JSON_VALUES + 1)}))
