"""Builds input objects by a plan that is made once per type. Strawberry's own way asks each field for its type and name at
every call, which for forty messages takes longer than all checks of the input together.

A list with more objects than an input may have is refused before its objects are built. A JSON value is limited, unless its
field takes back what a completion returned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from graphql import GraphQLInputObjectType, GraphQLSchema
from strawberry.schema.config import StrawberryConfig
from strawberry.types.base import StrawberryList, StrawberryObjectDefinition, StrawberryOptional, get_object_definition

from app.domain.errors import Refused
from app.domain.problems import InvalidInput
from resolvers.inputs.checks import check_count, invalid
from schema.scalars import JSON, check_json

Value: TypeAlias = Any  # what graphql-core's coercion returns: scalars, enum members, lists and dicts of them
Build: TypeAlias = Callable[[Value], Value]

_MAX_OBJECTS = 10_000


def plan_inputs(schema: GraphQLSchema, config: StrawberryConfig) -> None:
    """Gives every input type of the schema its plan, and tells graphql-core which of them take exactly one field."""
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
            None if field.metadata.get("unbounded") else _builder(field.resolve_type(), plans),
        )
        for field in definition.fields
    }

    def build(value: Mapping[str, Value]) -> Value:
        given: dict[str, Value] = left_out.copy()
        for name, item in value.items():
            python_name, below = steps[name]
            given[python_name] = item if below is None or item is None else _below(name, below, item)
        return origin(**given)

    return build


def _builder(field_type: object, plans: Mapping[type, Build]) -> Build | None:
    """Returns None if the value is used as it is."""
    if isinstance(field_type, StrawberryOptional):
        return _builder(field_type.of_type, plans)
    if isinstance(field_type, StrawberryList):
        each = _builder(field_type.of_type, plans)
        return None if each is None else _list_builder(each)
    if field_type is JSON:
        return _bounded_json
    definition = get_object_definition(field_type)
    if definition is None:
        return None
    origin = definition.origin

    def build(value: Value) -> Value:
        return plans[origin](value)

    return build


def _below(name: str, build: Build, item: Value) -> Value:
    """Refusals name a field by its whole path."""
    try:
        return build(item)
    except Refused as refused:
        reason = refused.reason
        if not isinstance(reason, InvalidInput):
            raise
        raise Refused(dataclasses.replace(reason, path=(name, *(reason.path or ())))) from None


def _list_builder(each: Build) -> Build:
    def build(items: list[Value]) -> list[Value]:
        check_count(items, _MAX_OBJECTS, ())
        return [_below(str(index), each, item) for index, item in enumerate(items)]

    return build


def _bounded_json(value: Value) -> Value:
    try:
        return check_json(value)
    except (ValueError, TypeError) as error:
        text = str(error)
        raise invalid(f"{text[0].upper()}{text[1:]}.", ()) from None
