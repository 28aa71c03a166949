"""A GraphQL class describes a domain class: it lists what is public, and Strawberry reads the attributes of the domain object.

There is no second copy of the data and no mapping code. An attribute that is not listed stays private.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import strawberry

Described = TypeVar("Described", bound=type)

DOMAIN_CLASSES = "__domain_classes__"


def describes(*domain: type, description: str) -> Callable[[Described], Described]:
    """Makes the class the GraphQL type of every instance of these domain classes, also in unions, interfaces and streams."""

    def decorate(cls: Described) -> Described:
        def is_type_of(value: object, _info: object) -> bool:
            return isinstance(value, domain)

        setattr(cls, DOMAIN_CLASSES, domain)
        cls.is_type_of = staticmethod(is_type_of)  # type: ignore[attr-defined]  # Strawberry looks for it by this name
        return strawberry.type(cls, description=description)

    return decorate


def domain_classes(cls: object) -> tuple[type, ...]:
    """The domain classes that a GraphQL class describes."""
    found: tuple[type, ...] = getattr(cls, DOMAIN_CLASSES, ())
    return found
