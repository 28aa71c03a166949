"""Input objects are built by a plan made once a type: Strawberry's own way asks each field for its type and name at every call,
which at forty messages takes longer than all checks of the input together. A list of objects longer than any input may have is
refused before its objects are built."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from graphql import GraphQLInputObjectType, GraphQLSchema
from strawberry.schema.config import StrawberryConfig
from strawberry.types.base import StrawberryList, StrawberryObjectDefinition, StrawberryOptional, get_object_definition

from resolvers.inputs.checks import check_count

Value: TypeAlias = Any  # what graphql-core's coercion gives: scalars, enum members, lists and dicts of them
Build: TypeAlias = Callable[[Value], Value]

_MAX_OBJECTS = 10_000


def plan_inputs(schema: GraphQLSchema, config: StrawberryConfig) -> None:
    """Gives every input type of the schema its plan, and graphql-core the word that some take exactly one field."""
    plans: dict[type, Build] = {}
    for graphql_type in schema.type_map.values():
        if isinstance(graphql_type, GraphQLInputObjectType):
            definition: StrawberryObjectDefinition = graphql_type.extensions["strawberry-definition"]
            build = plans[definition.origin] = _plan(definition, config, plans)
            definition.from_input = _ignoring_context(build)
            graphql_type.is_one_of = definition.is_one_of  # so that graphql-core itself validates, prints and introspects it


def _ignoring_context(build: Build) -> Callable[[type, Mapping[str, Any], object], Any]:
    def from_input(_cls: type, value: Mapping[str, Any], _context: object) -> Any:
        return build(value)

    return from_input


def _plan(definition: StrawberryObjectDefinition, config: StrawberryConfig, plans: Mapping[type, Build]) -> Build:
    origin = definition.origin
    left_out = {
        field.python_name: None
        for field in definition.fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    steps = {
        config.name_converter.from_field(field): (
            field.python_name,
            _builder(config.name_converter.from_field(field), field.resolve_type(), plans),
        )
        for field in definition.fields
    }

    def build(value: Mapping[str, Value]) -> Value:
        given: dict[str, Value] = left_out.copy()
        for name, item in value.items():
            python_name, below = steps[name]
            given[python_name] = item if below is None or item is None else below(item)
        return origin(**given)

    return build


def _builder(name: str, field_type: object, plans: Mapping[type, Build]) -> Build | None:
    """None if the value is taken as it is."""
    if isinstance(field_type, StrawberryOptional):
        return _builder(name, field_type.of_type, plans)
    if isinstance(field_type, StrawberryList):
        each = _builder(name, field_type.of_type, plans)
        return None if each is None else _list_builder(name, each)
    definition = get_object_definition(field_type)
    if definition is None:
        return None
    origin = definition.origin

    def build(value: Value) -> Value:
        return plans[origin](value)

    return build


def _list_builder(name: str, each: Build) -> Build:
    def build(items: list[Value]) -> list[Value]:
        check_count(items, _MAX_OBJECTS, (name,))
        return [each(item) for item in items]

    return build
