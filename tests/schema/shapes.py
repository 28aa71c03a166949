"""A schema as flat lines, each naming one thing that a client may rely on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from graphql import (
    GraphQLArgument,
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLInt,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLScalarType,
    GraphQLSchema,
    GraphQLUnionType,
    print_schema,
)


def public_types(schema: GraphQLSchema) -> dict[str, GraphQLNamedType]:
    return {name: found for name, found in schema.type_map.items() if not name.startswith("__") and not is_built_in(found)}


def is_built_in(found: GraphQLNamedType) -> bool:
    return isinstance(found, GraphQLScalarType) and found.name in {"Boolean", "Float", "ID", "Int", "String"}


def shape(found: GraphQLNamedType) -> dict[str, str]:
    """The coordinate of each part of a type, with all of its shape."""
    lines = {found.name: f"{_kind(found)} {_of_all(found)}"}
    if isinstance(found, (GraphQLObjectType, GraphQLInterfaceType)):
        lines |= dict(_fields(found.name, found.fields))
    elif isinstance(found, GraphQLInputObjectType):
        lines |= {f"{found.name}.{name}": _input(field) for name, field in found.fields.items()}
    elif isinstance(found, GraphQLEnumType):
        lines |= {f"{found.name}.{name}": "value" for name in found.values}
    elif isinstance(found, GraphQLUnionType):
        lines |= {f"{found.name}.{member.name}": "member" for member in found.types}
    return lines


def _kind(found: GraphQLNamedType) -> str:
    kinds = (
        GraphQLScalarType,
        GraphQLObjectType,
        GraphQLInterfaceType,
        GraphQLUnionType,
        GraphQLEnumType,
        GraphQLInputObjectType,
    )
    return next(kind.__name__ for kind in kinds if isinstance(found, kind))


def _of_all(found: GraphQLNamedType) -> str:
    if isinstance(found, (GraphQLObjectType, GraphQLInterfaceType)):
        return "implements " + " & ".join(sorted(interface.name for interface in found.interfaces))
    return "oneOf" if isinstance(found, GraphQLInputObjectType) and found.is_one_of else ""


def _fields(type_name: str, fields: Mapping[str, GraphQLField]) -> Iterator[tuple[str, str]]:
    for name, field in fields.items():
        yield f"{type_name}.{name}", str(field.type)
        for argument, found in field.args.items():
            yield f"{type_name}.{name}({argument}:)", _input(found)


def _input(found: GraphQLArgument | GraphQLInputField) -> str:
    """As it is printed: `name: Type = default`."""
    holder = GraphQLSchema(query=GraphQLObjectType("Query", {"it": GraphQLField(GraphQLInt, {"given": _as_argument(found)})}))
    return print_schema(holder).partition("given: ")[2].partition(")")[0]


def _as_argument(found: GraphQLArgument | GraphQLInputField) -> GraphQLArgument:
    return GraphQLArgument(found.type, default_value=found.default_value, default=found.default)


def descriptions(found: GraphQLNamedType) -> dict[str, str | None]:
    """The coordinate of each part of a type, with its description."""
    texts = {found.name: found.description}
    if isinstance(found, (GraphQLObjectType, GraphQLInterfaceType)):
        for name, field in found.fields.items():
            texts[f"{found.name}.{name}"] = field.description
            texts |= {f"{found.name}.{name}({argument}:)": given.description for argument, given in field.args.items()}
    elif isinstance(found, GraphQLInputObjectType):
        texts |= {f"{found.name}.{name}": given.description for name, given in found.fields.items()}
    elif isinstance(found, GraphQLEnumType):
        texts |= {f"{found.name}.{name}": value.description for name, value in found.values.items()}
    return texts
