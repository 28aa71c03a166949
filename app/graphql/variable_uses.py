"""Counts how often an operation uses each of its variables.

The limits of a body count a variable once, but its value is built again at every use. So a request that exceeds the limits with
all uses counted is refused before anything is built.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from graphql import (
    DirectiveNode,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    ListValueNode,
    ObjectValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    StringValueNode,
    ValueNode,
    VariableNode,
)

from app.domain.errors import LimitExceeded
from app.graphql.body import MAX_JSON_OBJECTS, MAX_JSON_VALUES

MAX_VALUES = MAX_JSON_VALUES // 2
MAX_OBJECTS = MAX_JSON_OBJECTS // 2
MAX_CHARACTERS = 32 * 1024 * 1024


@dataclass(slots=True)
class Weight:
    values: int = 0
    objects: int = 0
    characters: int = 0

    def add(self, other: Weight, times: int) -> None:
        self.values += times * other.values
        self.objects += times * other.objects
        self.characters += times * other.characters


@dataclass(frozen=True, slots=True)
class Uses:
    """How often each variable of an operation is used, and the sizes of default values."""

    counts: Mapping[str, int]
    defaults: Mapping[str, Weight]

    def check(self, variables: Mapping[str, object] | None) -> None:
        """Checks only if a variable is used more than once. Raises LimitExceeded."""
        if not (variables or self.defaults) or max(self.counts.values(), default=0) <= 1:
            return
        given = variables or {}
        total = Weight()
        for name, count in self.counts.items():
            total.add(_weigh(given[name]) if name in given else self.defaults.get(name, Weight()), count)
        _within("JSON values, at each use of a variable", total.values, MAX_VALUES)
        _within("JSON objects, at each use of a variable", total.objects, MAX_OBJECTS)
        _within("characters of text, at each use of a variable", total.characters, MAX_CHARACTERS)


class VariableUses:
    """The uses in one document that is known to be valid: no fragment spreads itself."""

    def __init__(self, document: DocumentNode) -> None:
        self._fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
        self._counted: dict[str, Counter[str]] = {}

    def of(self, operation: OperationDefinitionNode) -> Uses:
        found = self._selections(operation.selection_set)
        _add_directives(operation.directives, found)
        given = {node.variable.name.value: node.default_value for node in operation.variable_definitions or ()}
        return Uses(found, {name: _weigh_literal(value) for name, value in given.items() if value is not None})

    def _selections(self, selections: SelectionSetNode | None) -> Counter[str]:
        found: Counter[str] = Counter()
        for node in selections.selections if selections is not None else ():
            _add_directives(node.directives, found)
            if isinstance(node, FragmentSpreadNode):
                found.update(self._fragment(node.name.value))
            elif isinstance(node, FieldNode):
                for argument in node.arguments or ():
                    _add_value(argument.value, found)
                found.update(self._selections(node.selection_set))
            elif isinstance(node, InlineFragmentNode):
                found.update(self._selections(node.selection_set))
        return found

    def _fragment(self, name: str) -> Counter[str]:
        if name not in self._counted:
            self._counted[name] = self._selections(self._fragments[name].selection_set)
        return self._counted[name]


def _add_directives(directives: Iterable[DirectiveNode] | None, found: Counter[str]) -> None:
    for directive in directives or ():
        for argument in directive.arguments or ():
            _add_value(argument.value, found)


def _add_value(value: ValueNode, found: Counter[str]) -> None:
    if isinstance(value, VariableNode):
        found[value.name.value] += 1
    elif isinstance(value, ListValueNode):
        for item in value.values:
            _add_value(item, found)
    elif isinstance(value, ObjectValueNode):
        for field in value.fields:
            _add_value(field.value, found)


def _weigh(value: object) -> Weight:
    weight = Weight()
    left = [value]
    while left:
        found = left.pop()
        weight.values += 1
        if isinstance(found, str):
            weight.characters += len(found)
        elif isinstance(found, list):
            left += found
        elif isinstance(found, dict):
            weight.objects += 1
            left += found.values()
    return weight


def _weigh_literal(value: ValueNode) -> Weight:
    """The size of a default value, which contains no variables."""
    weight = Weight()
    left = [value]
    while left:
        found = left.pop()
        weight.values += 1
        if isinstance(found, StringValueNode):
            weight.characters += len(found.value)
        elif isinstance(found, ListValueNode):
            left += found.values
        elif isinstance(found, ObjectValueNode):
            weight.objects += 1
            left += (field.value for field in found.fields)
    return weight


def _within(limit: str, had: int, allowed: int) -> None:
    if had > allowed:
        raise LimitExceeded(limit, had, allowed)
