"""What a schema says about a field beyond its type, in Strawberry's `metadata`.

`cost`: points that a call of the field takes, 1 by default. `list_size`: the assumed number of items of an unpaged list.
`spends`: a query field that costs money, so GET is never allowed for it. `broadcast`: see Audience. `joined`: called with the
context of a subscriber that joins a shared stream, to make its first event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from graphql import GraphQLField

from app.access.audience import Audience

Joined: TypeAlias = Callable[[object], None]


def metadata_of(field: GraphQLField) -> Mapping[object, object]:
    definition = field.extensions.get("strawberry-definition")
    found: object = getattr(definition, "metadata", None)
    return found if isinstance(found, Mapping) else {}


def whole_number(metadata: Mapping[object, object], name: str, default: int) -> int:
    value = metadata.get(name, default)
    if not isinstance(value, int):
        raise TypeError(f"metadata {name!r} is not a whole number")
    return value


def spends(field: GraphQLField) -> bool:
    return metadata_of(field).get("spends") is True


def audience_of(field: GraphQLField) -> Audience | None:
    found = metadata_of(field).get("broadcast")
    return found if isinstance(found, Audience) else None


def joined_of(field: GraphQLField) -> Joined | None:
    found = metadata_of(field).get("joined")
    return found if callable(found) else None
