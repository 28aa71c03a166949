from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.graphql.body import (
    MAX_DIGITS,
    MAX_ESCAPES,
    MAX_JSON_OBJECTS,
    MAX_JSON_VALUES,
    MAX_TOTAL_DIGITS,
    MAX_WIDE_BYTES,
    BodyParser,
    JsonComplexity,
    parse_query_string,
)
from app.graphql.errors import RequestFailed
from app.runtime.offload import Offload

pytestmark = pytest.mark.anyio

PARSER = BodyParser(1000, Offload())
STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
TEXTS = st.text(st.sampled_from('au\\",[{\n\x01\u00e9'), max_size=8)
TREES = st.recursive(TEXTS | st.integers(), lambda inside: st.lists(inside) | st.dictionaries(TEXTS, inside), max_leaves=8)


def body(value: object) -> bytes:
    return json.dumps({"query": "{ a }", "variables": {"v": value}}).encode()


async def refused(raw: bytes) -> dict[str, object]:
    with pytest.raises(RequestFailed) as caught:
        await PARSER.parse(raw)
    assert caught.value.status == 413
    extensions = caught.value.errors[0]["extensions"]
    assert isinstance(extensions, dict)
    return extensions


class TestJsonComplexity:
    @given(tree=TREES, size=st.integers(1, 6), escaped=st.booleans())
    def test_what_stands_in_strings_does_not_count_however_the_text_is_cut(
        self, *, tree: object, size: int, escaped: bool
    ) -> None:
        raw = json.dumps(tree, ensure_ascii=escaped).encode()
        form = JsonComplexity()
        for start in range(0, len(raw), size):
            form.add(raw[start : start + size])
        outside = STRING.sub(b"", raw)
        assert (form.values, form.objects) == (len(re.findall(rb"[,{\[]", outside)), outside.count(b"{"))
        wide = (string for string in STRING.findall(raw) if not json.loads(string).isascii())
        assert form.wide_bytes == sum(len(string) - 2 for string in wide)


class TestWhatABodyUnfoldsTo:
    async def test_is_little_for_a_table_in_a_prompt(self) -> None:
        table = "1,2,[3],{4}\n" * MAX_JSON_VALUES + "7" * 10_000
        request = await PARSER.parse(body(table))
        assert request.variables == {"v": table}

    @pytest.mark.parametrize(
        ("value", "limit", "allowed"),
        [
            ([1] * (MAX_JSON_VALUES + 1), "JSON values", MAX_JSON_VALUES),
            ({str(number): 1 for number in range(MAX_JSON_VALUES + 1)}, "JSON values", MAX_JSON_VALUES),
            ([{"text": "x"}] * (MAX_JSON_OBJECTS + 1), "JSON objects", MAX_JSON_OBJECTS),
            ("\n" * (MAX_ESCAPES + 1), "escapes in JSON", MAX_ESCAPES),
            ([1] * MAX_JSON_OBJECTS + [int("7" * (MAX_DIGITS + 1))], "digits of a number", MAX_DIGITS),
            ([int("7" * 50)] * (MAX_TOTAL_DIGITS // 50 + 1), "digits of all numbers", MAX_TOTAL_DIGITS),
            ("x" * MAX_WIDE_BYTES + "\u00e9", "bytes of text beyond ASCII", MAX_WIDE_BYTES),
        ],
    )
    async def test_is_bounded(self, value: object, limit: str, allowed: int) -> None:
        extensions = await refused(body(value))
        assert (extensions["code"], extensions["limit"], extensions["allowed"]) == ("LIMIT_EXCEEDED", limit, allowed)
        had = extensions["had"]
        assert isinstance(had, int)
        assert had > allowed

    async def test_may_be_an_image_of_20_mb_beside_words_of_any_script(self) -> None:
        image = "QUJD" * 5_000_000
        request = await PARSER.parse(body([image, "\u63cf\u8ff0\u56fe\u7247"]))
        assert request.variables == {"v": [image, "\u63cf\u8ff0\u56fe\u7247"]}

    async def test_is_bounded_also_where_it_is_no_json(self) -> None:
        with pytest.raises(RequestFailed) as caught:
            await PARSER.parse((b'"' * 65_534 + "\u00e9".encode()) * 10)
        assert caught.value.status == 400
        assert "no separator" in str(caught.value.errors[0]["message"])

    async def test_may_be_ascii_that_is_escaped(self) -> None:
        image = "QUJDQUJD+" * (MAX_WIDE_BYTES // 8)
        raw = body(image).replace(b"+", rb"\u002B")
        assert (await PARSER.parse(raw)).variables == {"v": image}

    async def test_is_bounded_in_a_query_string_too(self) -> None:
        with pytest.raises(RequestFailed) as caught:
            await parse_query_string(b'query={a}&variables={"v":[' + b"{}," * MAX_JSON_OBJECTS + b"0]}")
        assert caught.value.status == 413

    async def test_may_be_a_conversation_of_2048_messages_with_parts_and_tools(self) -> None:
        """The largest that is allowed."""
        message = {"role": "USER", "parts": [{"text": "x"}, {"image": {"base64": {"data": "aGk=", "mediaType": "image/png"}}}]}
        variables = {"v": {"messages": [message] * 1400 + [{"role": "USER", "text": "x"}] * 648}}
        request = await PARSER.parse(json.dumps({"query": "{ a }", "variables": variables}).encode())
        assert request.variables == variables


class TestNumbers:
    @pytest.mark.parametrize("number", ["1.5", "-0.25e-3", "3.141592653589793", "1.23456789012345678901234567890e-300", "5e-324"])
    async def test_are_read_exactly(self, number: str) -> None:
        request = await PARSER.parse(f'{{"variables": {{"v": {number}}}}}'.encode())
        assert request.variables == {"v": float(number)}

    @pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity"])
    async def test_that_are_not_finite_are_refused(self, number: str) -> None:
        with pytest.raises(RequestFailed) as caught:
            await PARSER.parse(f'{{"variables": {{"v": {number}}}}}'.encode())
        assert caught.value.status == 400
