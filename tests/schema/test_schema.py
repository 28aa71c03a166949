"""Walks the schema: what every type and field must have."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator

import pytest
from graphql import GraphQLInputObjectType, GraphQLNonNull, GraphQLObjectType, GraphQLSchema, GraphQLUnionType, get_named_type
from strawberry.types.base import StrawberryObjectDefinition
from strawberry.types.field import StrawberryField

from resolvers.refusals import PROBLEMS
from schema import build
from schema.describes import domain_classes
from schema.permissions import EVERY_FIELD, PERMISSIONS, permission
from tests.core_schema import core_schema
from tests.schema.shapes import descriptions, public_types


@pytest.fixture(scope="module")
def schema() -> GraphQLSchema:
    return core_schema(build.build_schema())


def strawberry_fields(schema: GraphQLSchema) -> Iterator[tuple[str, type, StrawberryField]]:
    for graphql_type in public_types(schema).values():
        if isinstance(graphql_type, GraphQLObjectType):
            definition: StrawberryObjectDefinition = graphql_type.extensions["strawberry-definition"]
            for field in definition.fields:
                yield f"{graphql_type.name}.{field.python_name}", definition.origin, field


def attributes(domain: type) -> set[str]:
    fields = {field.name for field in dataclasses.fields(domain)} if dataclasses.is_dataclass(domain) else set()
    properties = {name for name, value in inspect.getmembers(domain) if isinstance(value, property)}
    return fields | properties | set(getattr(domain, "__annotations__", {}))


class TestDescriptions:
    def test_everything_has_one(self, schema: GraphQLSchema) -> None:
        missing = [
            coordinate
            for found in public_types(schema).values()
            for coordinate, words in descriptions(found).items()
            if not (words and words.strip())
        ]
        assert missing == []

    def test_each_is_a_sentence(self, schema: GraphQLSchema) -> None:
        unfinished = [
            coordinate
            for found in public_types(schema).values()
            for coordinate, words in descriptions(found).items()
            if words and not words.strip().endswith(".")
        ]
        assert unfinished == []


class TestDescribedClasses:
    def test_each_plain_field_is_an_attribute_of_the_domain_class(self, schema: GraphQLSchema) -> None:
        absent = [
            coordinate
            for coordinate, origin, field in strawberry_fields(schema)
            if field.is_basic_field
            for domain in domain_classes(origin)
            if field.python_name not in attributes(domain)
        ]
        assert absent == []

    def test_each_member_of_a_union_describes_a_domain_class(self, schema: GraphQLSchema) -> None:
        members = {
            member.name: domain_classes(member.extensions["strawberry-definition"].origin)
            for found in public_types(schema).values()
            if isinstance(found, GraphQLUnionType)
            for member in found.types
        }
        assert members
        assert [name for name, domains in members.items() if not domains] == []

    def test_no_domain_class_has_two_types(self, schema: GraphQLSchema) -> None:
        domains = [
            domain
            for found in public_types(schema).values()
            if isinstance(found, GraphQLObjectType)
            for domain in domain_classes(found.extensions["strawberry-definition"].origin)
        ]
        assert len(domains) == len(set(domains))


class TestRootFields:
    def test_queries_and_mutations_are_nullable(self, schema: GraphQLSchema) -> None:
        for root in (schema.query_type, schema.mutation_type):
            assert root is not None
            assert [name for name, field in root.fields.items() if isinstance(field.type, GraphQLNonNull)] == []

    def test_a_mutation_gives_back_each_problem_of_its_union_as_data(self, schema: GraphQLSchema) -> None:
        assert schema.mutation_type is not None
        for name, field in schema.mutation_type.fields.items():
            union = get_named_type(field.type)
            assert isinstance(union, GraphQLUnionType)
            interfaces = {member.name: {interface.name for interface in member.interfaces} for member in union.types}
            promised = {
                domain
                for member in union.types
                if "Problem" in interfaces[member.name]
                for domain in domain_classes(member.extensions["strawberry-definition"].origin)
            }
            resolver = field.extensions["strawberry-definition"].base_resolver
            assert set(getattr(resolver.wrapped_func, PROBLEMS, ())) == promised, name


class TestInputs:
    def test_every_list_and_text_has_a_plan(self, schema: GraphQLSchema) -> None:
        planned = [
            found.extensions["strawberry-definition"].from_input
            for found in public_types(schema).values()
            if isinstance(found, GraphQLInputObjectType)
        ]
        assert planned
        assert None not in planned


class TestPermissions:
    def test_every_field_has_a_row(self, schema: GraphQLSchema) -> None:
        roots = {schema.query_type, schema.mutation_type, schema.subscription_type}
        for graphql_type in public_types(schema).values():
            if isinstance(graphql_type, GraphQLObjectType):
                for name in graphql_type.fields:
                    assert permission(graphql_type.name, name, root=graphql_type in roots) is not None

    def test_every_row_has_a_field(self, schema: GraphQLSchema) -> None:
        types = public_types(schema)
        for type_name, field_name in PERMISSIONS:
            found = types.get(type_name)
            assert isinstance(found, GraphQLObjectType), type_name
            assert field_name == EVERY_FIELD or field_name in found.fields
