"""Completes plain data fast. If a selection only reads attributes, a small plan, made once per document, does what graphql-core
would do field by field.

A plan never changes a result. If a value is not plain (a resolver, an argument, a union, an unexpected null, a wrong type), the
plan gives up. Then graphql-core completes the same value in its usual way, with its own errors. Reading an attribute twice does
no harm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from keyword import iskeyword
from typing import Any, TypeAlias, cast

from graphql import (
    GraphQLBoolean,
    GraphQLField,
    GraphQLFloat,
    GraphQLID,
    GraphQLInt,
    GraphQLLeafType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLString,
    Undefined,
    is_abstract_type,
    is_leaf_type,
)
from graphql.execution.collect_fields import FieldDetailsList, collect_fields
from graphql.type.definition import GraphQLResolveInfoHelpers
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext
from strawberry.types.field import StrawberryField

from schema.scalars import print_date_time

Complete: TypeAlias = Callable[[Any], object]
Plans: TypeAlias = dict[tuple[object, ...], Complete | None]

_TYPENAME = "__typename"
_MIN_INT, _MAX_INT = -(2**31), 2**31 - 1


class NotPlain(Exception):
    """A plan cannot complete this value."""


def _text(value: object) -> object:
    if type(value) is not str:
        raise NotPlain
    return value


def _truth(value: object) -> object:
    if type(value) is not bool:
        raise NotPlain
    return value


def _number(value: object) -> object:
    if type(value) is not float or not math.isfinite(value):
        raise NotPlain
    return value


def _whole_number(value: object) -> object:
    if type(value) is not int or not _MIN_INT <= value <= _MAX_INT:
        raise NotPlain
    return value


# These values are encoded as they are and need no coercion.
_AS_WRITTEN: Mapping[object, Complete] = {
    GraphQLString: _text,
    GraphQLID: _text,
    GraphQLBoolean: _truth,
    GraphQLFloat: _number,
    GraphQLInt: _whole_number,
}


def _instant(value: object) -> object:
    """The encoder writes an instant in UTC as the scalar does, in a fifth of the time."""
    return value if type(value) is datetime and value.tzinfo is UTC else print_date_time(value)


def _leaf(type_: GraphQLLeafType) -> Complete:
    as_written = _AS_WRITTEN.get(type_)
    if as_written is not None:
        return as_written
    coerce = type_.coerce_output_value
    if coerce is print_date_time:
        return _instant

    def complete(value: object) -> object:
        found = coerce(value)
        if found is None or found is Undefined:
            raise NotPlain
        return found

    return complete


def _numbers(values: object) -> object:
    """Checks all numbers in one step, because vectors have thousands. A sum is finite only if each of its parts is."""
    if not isinstance(values, (list, tuple)) or set(map(type, values)) - {float} or not math.isfinite(sum(values)):
        raise NotPlain
    return values


def _list(item: Complete, *, required: bool) -> Complete:
    if item is _number and required:
        return _numbers

    def complete(values: object) -> object:
        if not isinstance(values, (list, tuple)):
            raise NotPlain
        if required:
            return [item(value) for value in values]
        return [None if value is None else item(value) for value in values]

    return complete


def _refuse() -> object:
    raise NotPlain


def _object(type_: GraphQLObjectType, fields: list[tuple[str, str, Complete, bool]]) -> Complete:
    """`fields` are response key, attribute, the function that completes its value, and whether it must not be null.

    One expression for the whole object takes half the time of a loop. Nothing from a caller gets into its text. It contains
    only names of attributes of the schema's classes; everything else is passed by reference.
    """
    known: dict[str, object] = {"is_type_of": type_.is_type_of or _anything, "refuse": _refuse, "name": type_.name}
    entries = []
    for number, (key, attribute, complete, required) in enumerate(fields):
        known |= {f"key{number}": key, f"complete{number}": complete}
        entries.append(f"key{number}: {_expression(attribute, f'complete{number}', complete, required=required)}")
    check = "value is not None and is_type_of(value, None) is True"
    text = f"lambda value: {{{', '.join(entries)}}} if {check} else refuse()"
    return cast("Complete", eval(text, known))  # noqa: S307 (the text is made here, see above)


def _expression(attribute: str, name: str, complete: Complete, *, required: bool) -> str:
    if attribute == _TYPENAME:
        return "name"
    if complete is _text and required:
        return f"(part if type(part := value.{attribute}) is str else refuse())"
    if required:
        return f"{name}(value.{attribute})"
    return f"(None if (part := value.{attribute}) is None else {name}(part))"


def _anything(_value: object, _info: object) -> bool:
    return True


def _attribute(field: GraphQLField) -> str | None:
    """The attribute that a field reads; None if the field does anything else."""
    definition = field.extensions.get("strawberry-definition")
    if not getattr(field.resolve, "_is_default", False) or not isinstance(definition, StrawberryField) or field.args:
        return None
    name = definition.python_name
    plain = definition.default_resolver is getattr and name.isidentifier() and not iskeyword(name)
    return name if plain else None


def _by_plan(complete_value: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `complete_value`: uses the plan if there is one and the value is plain."""

    def complete(  # noqa: PLR0917 (graphql-core's own)
        self: PlannedExecutor,
        return_type: GraphQLOutputType,
        field_details_list: FieldDetailsList,
        info: Any,
        path: Any,
        result: Any,
        position_context: Any,
    ) -> Any:
        plan = self._plan(return_type, field_details_list)
        if plan is not None:
            with suppress(Exception):  # graphql-core gets the same error again and reports it
                return plan(result)
        return complete_value(self, return_type, field_details_list, info, path, result, position_context)

    return complete


def _unused(_work: object) -> Any:
    raise NotImplementedError("no type of this schema is resolved asynchronously")


_HELPERS = GraphQLResolveInfoHelpers(gather=_unused, track=_unused)


class PlannedExecutor(StrawberryGraphQLCoreExecutionContext):
    """`plans` belongs to the document. It is None if the selections depend on more than the document, for example because of
    @include.

    Unlike graphql-core's own executor, it holds no reference to itself. Such a cycle would keep the data of a large request
    until the garbage collector's next full run, which is rare.
    """

    plans: Plans | None = None
    _event_field: tuple[str, GraphQLOutputType, FieldDetailsList] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.async_helpers = _HELPERS

    complete_list_value = _by_plan(StrawberryGraphQLCoreExecutionContext.complete_list_value)
    complete_object_value = _by_plan(StrawberryGraphQLCoreExecutionContext.complete_object_value)

    def complete_event(self, event: object) -> dict[str, object] | None:
        """Returns the data of one event of a subscription if everything that is selected is plain; None if graphql-core has to
        complete it. A plan calls no resolver, so it needs no context."""
        if self.plans is None:
            return None
        key, type_, details = self._event_field = self._event_field or self._root_field()
        with suppress(Exception):  # graphql-core gets the same error again and reports it
            plan = self._event_plan(type_, details, event)
            return None if plan is None else {key: plan(event)}
        return None

    def _root_field(self) -> tuple[str, GraphQLOutputType, FieldDetailsList]:
        """Response key, type and selections of a subscription's one field. Its value is the event itself."""
        root = cast("GraphQLObjectType", self.schema.subscription_type)
        fields = collect_fields(
            self.schema, self.fragments, self.variable_values, root, self.operation, self.hide_suggestions
        ).grouped_field_set
        ((key, details),) = fields.items()
        return key, root.fields[details[0].node.name.value].type, details

    def _event_plan(self, type_: GraphQLOutputType, details: FieldDetailsList, event: object) -> Complete | None:
        """The plan for the event's class, which decides the type if the field is an interface or a union."""
        assert self.plans is not None
        key = (type(event), type_, *(id(one.node) for one in details))
        if key not in self.plans:
            self.plans[key] = self._plan(self._type_of(type_, event), details)
        return self.plans[key]

    def _type_of(self, type_: GraphQLOutputType, event: object) -> GraphQLOutputType:
        """Raises ValueError if not exactly one type matches."""
        nullable = type_.of_type if isinstance(type_, GraphQLNonNull) else type_
        if not is_abstract_type(nullable):
            return nullable
        possible = self.schema.get_possible_types(nullable)
        (found,) = (
            each for each in possible if each.is_type_of is not None and each.is_type_of(event, cast("Any", None)) is True
        )
        return found

    def _plan(self, type_: GraphQLOutputType, details: FieldDetailsList) -> Complete | None:
        plans = self.plans
        if plans is None:
            return None
        key = (type_, *(id(one.node) for one in details))
        try:
            return plans[key]
        except KeyError:
            plan = plans[key] = self._build(type_, details)
            return plan

    def _build(self, type_: GraphQLOutputType, details: FieldDetailsList) -> Complete | None:
        if isinstance(type_, GraphQLNonNull):
            return self._build(type_.of_type, details)
        if is_leaf_type(type_):
            return _leaf(type_)
        if isinstance(type_, GraphQLList):
            item = self._build(type_.of_type, details)
            return None if item is None else _list(item, required=isinstance(type_.of_type, GraphQLNonNull))
        if isinstance(type_, GraphQLObjectType):
            return self._build_object(type_, details)
        return None

    def _build_object(self, type_: GraphQLObjectType, details: FieldDetailsList) -> Complete | None:
        fields: list[tuple[str, str, Complete, bool]] = []
        for key, parts in self.collect_subfields(type_, details).grouped_field_set.items():
            name = parts[0].node.name.value
            if name == _TYPENAME:
                fields.append((key, _TYPENAME, _text, True))
                continue
            field = type_.fields.get(name)
            attribute = None if field is None else _attribute(field)
            complete = None if field is None or attribute is None else self._build(field.type, parts)
            if field is None or attribute is None or complete is None:
                return None
            fields.append((key, attribute, complete, isinstance(field.type, GraphQLNonNull)))
        return _object(type_, fields)
