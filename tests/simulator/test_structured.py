from __future__ import annotations

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.structured import Json, Schema, instance, wrong_instance

NAMES = st.sampled_from(["meter", "unit", "site", "note"])
LEAVES: st.SearchStrategy[Schema] = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.just({"type": ["string", "null"]}),
    st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more}, st.integers(-50, 50), st.integers(0, 9)
    ),
    st.builds(lambda low: {"type": "number", "exclusiveMinimum": low}, st.integers(-50, 50)),
    st.builds(
        lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more}, st.integers(0, 20), st.integers(0, 9)
    ),
    st.builds(lambda values: {"enum": values}, st.lists(st.one_of(st.integers(), st.text(max_size=5)), min_size=1, max_size=3)),
)


def _object(properties: dict[str, Json]) -> Schema:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def _array(items: Json, least: int) -> Schema:
    return {"type": "array", "items": items, "minItems": least}


SCHEMAS: st.SearchStrategy[Schema] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(_object, st.dictionaries(NAMES, inner, max_size=4)),
        st.builds(_array, inner, st.integers(0, 3)),
        st.builds(lambda choices: {"anyOf": choices}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=12,
)


class TestInstance:
    @given(schema=SCHEMAS, seed=st.integers(0, 2**32))
    def test_satisfies_its_schema(self, schema: Schema, seed: int) -> None:
        jsonschema.validate(instance(schema, seed), schema)

    def test_follows_references_even_endless_ones(self) -> None:
        schema: Schema = {
            "$defs": {
                "node": _object({"name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}})
            },
            "$ref": "#/$defs/node",
        }

        jsonschema.validate(instance(schema, 1), schema)

    @pytest.mark.parametrize("schema", [{"type": "object"}, {"type": "array"}, {"type": "string"}])
    def test_a_wrong_one_does_not(self, schema: Schema) -> None:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong_instance(schema), schema)
