from __future__ import annotations

from typing import Annotated, NewType, TypeAlias

import strawberry

from app.paging import PageRequest

Cursor = NewType("Cursor", str)

First: TypeAlias = Annotated[int | None, strawberry.argument(description="How many at most: 1 to 100; left out, 50.")]
After: TypeAlias = Annotated[
    Cursor | None, strawberry.argument(description="Those behind this position: a `cursor` or `endCursor` of the same list.")
]
Resume: TypeAlias = Annotated[
    Cursor | None, strawberry.argument(description="Those behind this event's cursor; left out, from now on.")
]


def page_request(first: int | None, after: str | None) -> PageRequest:
    """Raises Refused(InvalidInput) for a size out of range."""
    request = PageRequest(after=after if isinstance(after, str) else None)
    return PageRequest(first, request.after) if isinstance(first, int) else request
