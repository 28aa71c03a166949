"""The cost of a document, in points: one for every object that it can return. A page of 100 rows costs 100, and the sizes of
nested pages are multiplied.

The tree is built once per document. A request only fills in page sizes that come from variables. `actual` uses the same tree to
count what was returned. The guard limits the number of fields before a tree is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLCompositeType,
    GraphQLField,
    GraphQLNonNull,
    GraphQLOutputType,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    NullValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    VariableNode,
    get_named_type,
    is_composite_type,
    is_list_type,
)

from app.domain.paging import PageRequest
from app.graphql.fields import metadata_of, whole_number

DEFAULT_PAGE = PageRequest().first
DEFAULT_LIST = 10
INTROSPECTION_COST = 50
_PAGE_ARGUMENTS = ("first", "last", "topK")


@dataclass(frozen=True, slots=True)
class PageVariable:
    name: str
    default: int


PageSize: TypeAlias = int | PageVariable


@dataclass(slots=True)
class CostNode:
    """One response key: its own points, how many items it may return, and the keys inside each item. If objects of different
    types share the key, the most expensive one counts."""

    weight: int
    sizes: list[PageSize] = field(default_factory=list)
    children: dict[str, CostNode] = field(default_factory=dict)

    def requested(self, variables: Mapping[str, object]) -> int:
        each = self.weight + sum(child.requested(variables) for child in self.children.values())
        return max((_resolve(size, variables) for size in self.sizes), default=1) * each

    def actual(self, value: object) -> int:
        if isinstance(value, list):
            if not self.children:
                return len(value) * self.weight
            return sum(self.actual(item) for item in value)
        if not isinstance(value, dict):
            return 0
        children = self.children
        if not children:
            return self.weight
        return self.weight + sum(child.actual(value.get(key)) for key, child in children.items())

    @property
    def varies(self) -> bool:
        sized = any(isinstance(size, PageVariable) for size in self.sizes)
        return sized or any(child.varies for child in self.children.values())


class OperationCost:
    def __init__(self, root: CostNode) -> None:
        self._root = root
        self._fixed = None if root.varies else max(1, root.requested({}))

    def requested(self, variables: Mapping[str, object]) -> int:
        """Returns points. An impossible page size counts as zero, because the field's resolver refuses it."""
        return max(1, self._root.requested(variables)) if self._fixed is None else self._fixed

    def actual(self, data: object) -> int:
        return max(1, self._root.actual(data))


def _resolve(size: PageSize, variables: Mapping[str, object]) -> int:
    if isinstance(size, int):
        return size
    value = variables.get(size.name)
    return max(0, value if isinstance(value, int) else size.default)


class CostBuilder:
    def __init__(self, schema: GraphQLSchema, document: DocumentNode) -> None:
        self._schema = schema
        self._fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}

    def build(self, operation: OperationDefinitionNode) -> OperationCost:
        """The operation must have passed the guard and validation."""
        root = CostNode(weight=0)
        self._collect(operation.selection_set, self._schema.get_root_type(operation.operation), None, root.children)
        return OperationCost(root)

    def root_fields(self, operation: OperationDefinitionNode) -> list[str]:
        """The names of the operation's root fields, also of those in fragments."""
        return self._names(operation.selection_set)

    def _names(self, selections: SelectionSetNode | None) -> list[str]:
        names: list[str] = []
        for node in selections.selections if selections is not None else ():
            if isinstance(node, FieldNode):
                names.append(node.name.value)
            elif isinstance(node, InlineFragmentNode):
                names += self._names(node.selection_set)
            elif isinstance(node, FragmentSpreadNode):
                names += self._names(self._fragments[node.name.value].selection_set)
        return names

    def _collect(
        self,
        selections: SelectionSetNode | None,
        parent: GraphQLCompositeType | None,
        page: PageSize | None,
        into: dict[str, CostNode],
    ) -> None:
        for node in selections.selections if selections is not None and parent is not None else ():
            if isinstance(node, FieldNode):
                self._field(node, parent, page, into)
            elif isinstance(node, InlineFragmentNode):
                condition = node.type_condition
                self._collect(node.selection_set, self._named(condition.name.value) if condition else parent, page, into)
            elif isinstance(node, FragmentSpreadNode):
                fragment = self._fragments[node.name.value]
                self._collect(fragment.selection_set, self._named(fragment.type_condition.name.value), page, into)

    def _named(self, name: str) -> GraphQLCompositeType | None:
        found = self._schema.get_type(name)
        return found if is_composite_type(found) else None

    def _field(
        self, node: FieldNode, parent: GraphQLCompositeType | None, page: PageSize | None, into: dict[str, CostNode]
    ) -> None:
        name = node.name.value
        key = node.alias.value if node.alias else name
        if name in {"__schema", "__type"}:
            into[key] = CostNode(INTROSPECTION_COST)
            return
        definition = self._schema.get_field(parent, name) if parent is not None else None
        if definition is None:
            return
        named = get_named_type(definition.type)
        metadata = metadata_of(definition)
        if not is_composite_type(named) and "cost" not in metadata:
            return
        asked = _page_size(node, definition)
        page = asked if asked is not None else page
        size: PageSize | None = None
        if _is_list(definition.type):
            size, page = page if page is not None else whole_number(metadata, "list_size", DEFAULT_LIST), None
        weight = whole_number(metadata, "cost", 1)
        found = into.setdefault(key, CostNode(weight))
        found.weight = max(found.weight, weight)
        if size is not None:
            found.sizes.append(size)
        if is_composite_type(named):
            self._collect(node.selection_set, named, page, found.children)


def _is_list(type_: GraphQLOutputType) -> bool:
    return is_list_type(type_.of_type if isinstance(type_, GraphQLNonNull) else type_)


def _page_size(node: FieldNode, definition: GraphQLField) -> PageSize | None:
    """None if the field is not paged."""
    for name in _PAGE_ARGUMENTS:
        declared = definition.args.get(name)
        if declared is None:
            continue
        default = declared.default_value if isinstance(declared.default_value, int) else DEFAULT_PAGE
        for argument in node.arguments or ():
            if argument.name.value == name and not isinstance(argument.value, NullValueNode):
                if isinstance(argument.value, VariableNode):
                    return PageVariable(argument.value.name.value, default)
                if isinstance(argument.value, IntValueNode):
                    return max(0, int(argument.value.value))
        return default
    return None
