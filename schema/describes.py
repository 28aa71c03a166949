"""A GraphQL class describes a domain class: it lists what is public, and Strawberry reads the attributes of the domain object.

There is no second copy of the data and no mapping code; an attribute that is not listed stays private.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import strawberry

Described = TypeVar("Described", bound=type)

DOMAIN_CLASS = "__domain_class__"


def describes(domain: type, *, description: str, name: str | None = None) -> Callable[[Described], Described]:
    """Makes the class the GraphQL type of every instance of `domain`, also in unions, interfaces and streams."""

    def decorate(cls: Described) -> Described:
        def is_type_of(value: object, _info: object) -> bool:
            return isinstance(value, domain)

        setattr(cls, DOMAIN_CLASS, domain)
        cls.is_type_of = staticmethod(is_type_of)  # type: ignore[attr-defined]  # Strawberry looks for it by this name
        return strawberry.type(cls, name=name, description=description)

    return decorate


def domain_class(cls: object) -> type | None:
    """The domain class that a GraphQL class describes."""
    found = getattr(cls, DOMAIN_CLASS, None)
    return found if isinstance(found, type) else None
