"""Limits on what a document may ask for. One pass checks them before validation, so that validation cannot cost too much.

Fragments are measured once and then added up by arithmetic. So the pass is linear in the text, however often fragments are
spread. Introspection counts as fields but not towards depth, because the standard query is deeper than any ordinary document.
It must be the only root field: its answer takes long and is made in a thread, where nothing else can run.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
)

from app.domain.errors import LimitExceeded
from app.settings import LimitSettings

_INTROSPECTION = frozenset({"__schema", "__type"})
_MAX_INTROSPECTIONS = 2


@dataclass(slots=True)
class Measure:
    """One selection set with everything below it, fragments included. `keys`, `introspections`, `typenames` and `roots` count
    only the fields of the set itself."""

    depth: int = 0
    fields: int = 0
    aliases: int = 0
    repeats: int = 0
    introspections: int = 0
    typenames: int = 0
    roots: int = 0
    keys: Counter[str] = field(default_factory=Counter)

    def add_field(self, key: str, node: FieldNode, below: Measure | None) -> None:
        self.fields += 1
        self.roots += 1
        self.aliases += node.alias is not None
        self.keys[key] += 1
        introspection = node.name.value in _INTROSPECTION
        self.introspections += introspection
        self.typenames += node.name.value == "__typename"
        if below is not None:
            self.fields += below.fields
            self.aliases += below.aliases
            self.repeats = max(self.repeats, below.repeats)
        if not introspection:
            self.depth = max(self.depth, 1 + (below.depth if below is not None else 0))

    def add_spread(self, fragment: Measure, times: int) -> None:
        self.fields += fragment.fields * times
        self.aliases += fragment.aliases * times
        self.roots += fragment.roots * times
        self.depth = max(self.depth, fragment.depth)
        self.repeats = max(self.repeats, fragment.repeats)
        self.introspections += fragment.introspections * times
        self.typenames += fragment.typenames * times
        for key, count in fragment.keys.items():
            self.keys[key] += count * times


class Guard:
    """Measures one document. `check` raises LimitExceeded for the first limit that is exceeded."""

    def __init__(self, document: DocumentNode, limits: LimitSettings) -> None:
        self._limits = limits
        self._document = document
        self._fragments: dict[str, FragmentDefinitionNode] = {}
        self._measured: dict[str, Measure | None] = {}
        self.directives = 0
        self._most_directives = 0

    def check(self) -> bool:
        """Returns True if the document introspects."""
        operations: list[OperationDefinitionNode] = []
        for definition in self._document.definitions:
            if isinstance(definition, FragmentDefinitionNode):
                self._fragments.setdefault(definition.name.value, definition)
            elif isinstance(definition, OperationDefinitionNode):
                operations.append(definition)
        limits = self._limits
        _within("operations", len(operations), limits.operations)
        measures = [self._measure(operation.selection_set) for operation in operations]
        measures.extend([self._fragment(name) for name in self._fragments])
        for definition in (*operations, *self._fragments.values()):
            self._count_directives(len(definition.directives or ()))
            for variable in definition.variable_definitions or ():
                self._count_directives(len(variable.directives or ()))
        _within("directives on one selection", self._most_directives, limits.directives_per_field)
        _within("directives", self.directives, limits.directives)
        for measure in measures[: len(operations)]:
            _within("root fields", measure.roots, limits.root_fields)
            _within("introspection fields", measure.introspections, _MAX_INTROSPECTIONS)
            if measure.introspections:
                others = measure.roots - measure.introspections - measure.typenames
                _within("other root fields beside introspection", others, 0)
        for measure in measures:
            _within("depth", measure.depth, limits.depth)
            _within("fields", measure.fields, limits.fields)
            _within("aliases", measure.aliases, limits.aliases)
            _within("uses of one response key in a selection set", measure.repeats, limits.repeated_keys)
        return any(measure.introspections for measure in measures)

    def _fragment(self, name: str) -> Measure:
        """A fragment inside its own spread counts as nothing; validation reports the cycle."""
        if name in self._measured:
            return self._measured[name] or Measure()
        self._measured[name] = None
        found = self._fragments.get(name)
        measure = self._measure(found.selection_set) if found is not None else Measure()
        if found is not None and found.type_condition.name.value.startswith("__"):
            measure.depth = 0
        self._measured[name] = measure
        return measure

    def _measure(self, selections: SelectionSetNode | None) -> Measure:
        measure = Measure()
        self._add(selections, measure)
        measure.repeats = max(measure.repeats, max(measure.keys.values(), default=0))
        return measure

    def _add(self, selections: SelectionSetNode | None, measure: Measure) -> None:
        spreads: Counter[str] = Counter()
        for node in selections.selections if selections is not None else ():
            self._count_directives(len(node.directives or ()))
            if isinstance(node, FieldNode):
                below = self._measure(node.selection_set) if node.selection_set else None
                measure.add_field(node.alias.value if node.alias else node.name.value, node, below)
            elif isinstance(node, InlineFragmentNode):
                self._add(node.selection_set, measure)
            elif isinstance(node, FragmentSpreadNode):
                spreads[node.name.value] += 1
        for name, times in spreads.items():
            measure.add_spread(self._fragment(name), times)

    def _count_directives(self, count: int) -> None:
        self.directives += count
        self._most_directives = max(self._most_directives, count)


def _within(limit: str, had: int, allowed: int) -> None:
    if had > allowed:
        raise LimitExceeded(limit, had, allowed)
