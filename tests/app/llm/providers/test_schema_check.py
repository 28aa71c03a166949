from __future__ import annotations

import time
from typing import Any

import pytest

from app.domain.errors import Refused
from app.domain.problems import InvalidInput
from app.llm.messages import JsonObjectFormat, JsonSchemaFormat
from app.llm.providers.schema_check import AnswerCheck, SchemaChecks

LOOP = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
EXPLOSION = {
    "$ref": "#/$defs/d0",
    "$defs": {
        **{f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]} for n in range(30)},
        "d30": {},
    },
}


def check(schema: dict[str, Any]) -> AnswerCheck:
    made = SchemaChecks().prepare(JsonSchemaFormat("name", schema))
    assert made is not None
    return made


def refusal(schema: dict[str, Any]) -> InvalidInput:
    with pytest.raises(Refused) as caught:
        check(schema)
    assert isinstance(caught.value.reason, InvalidInput)
    return caught.value.reason


class TestAnAnswer:
    @pytest.mark.parametrize(("text", "good"), [('{"n": 3}', True), ('{"n": "x"}', False), ("{}", False), ("n: 3", False)])
    def test_is_checked_against_its_schema(self, text: str, *, good: bool) -> None:
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

        assert check(schema).accepts(text) is good

    @pytest.mark.parametrize(("text", "good"), [("{}", True), ('{"a": 1}', True), ("[]", False), ("3", False), ("{", False)])
    def test_may_be_any_object(self, text: str, *, good: bool) -> None:
        made = SchemaChecks().prepare(JsonObjectFormat())

        assert made is not None
        assert made.accepts(text) is good

    def test_follows_references_inside_the_schema(self) -> None:
        tree = {
            "$ref": "#/$defs/node",
            "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["n"]}},
        }

        assert check(tree).accepts('{"n": 1, "next": {"n": 2}}')
        assert not check(tree).accepts('{"n": 1, "next": {}}')

    def test_is_held_to_a_pattern(self) -> None:
        slug = {"type": "string", "pattern": "^[a-z]+-[0-9]{2}$"}

        assert check(slug).accepts('"abc-42"')
        assert not check(slug).accepts('"abc"')


class TestASchema:
    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "thing"},
            {"$ref": "https://example.com/schema.json"},
            {"$ref": "#/$defs/missing"},
            {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
            {"patternProperties": {"(a+)+$": {}}},
        ],
    )
    def test_that_cannot_be_checked_is_refused(self, schema: dict[str, Any]) -> None:
        assert refusal(schema).path == ("responseFormat", "jsonSchema", "schema")

    @pytest.mark.parametrize("schema", [LOOP, EXPLOSION], ids=["loop", "explosion"])
    def test_that_never_ends_accepts_nothing_in_bounded_time(self, schema: dict[str, Any]) -> None:
        started = time.perf_counter()

        assert not check(schema).accepts('{"a": 1}')
        assert time.perf_counter() - started < 5

    @pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|a)*$", "^(([a-z])+.)+[A-Z]([a-z])+$", "a*a*a*a*a*a*b"])
    def test_with_a_pattern_that_could_take_for_ever_is_checked_without_it(self, pattern: str) -> None:
        started = time.perf_counter()

        assert check({"type": "string", "pattern": pattern}).accepts(f'"{"a" * 5000}!"')
        assert time.perf_counter() - started < 5

    def test_is_compiled_once(self) -> None:
        checks = SchemaChecks()
        first = checks.prepare(JsonSchemaFormat("a", {"type": "integer"}))
        second = checks.prepare(JsonSchemaFormat("b", {"type": "integer"}))

        assert first is not None
        assert second is not None
        assert first.accepts("3")
        assert len(checks) == 1


class TestPlainText:
    def test_needs_no_check(self) -> None:
        assert SchemaChecks().prepare(None) is None
