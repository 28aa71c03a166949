from __future__ import annotations

from typing import Annotated, NewType, TypeAlias

import strawberry

from app.domain.paging import PageRequest

Cursor = NewType("Cursor", str)

First: TypeAlias = Annotated[int | None, strawberry.argument(description="Maximum number of items: 1 to 100. Default 50.")]
After: TypeAlias = Annotated[Cursor | None, strawberry.argument(description="Return items after this cursor.")]
Resume: TypeAlias = Annotated[
    Cursor | None, strawberry.argument(description="Return events after this cursor. Omit to start from now.")
]


def page_request(first: int | None, after: str | None) -> PageRequest:
    """Raises Refused(InvalidInput) for a size out of range."""
    request = PageRequest(after=after if isinstance(after, str) else None)
    return PageRequest(first, request.after) if isinstance(first, int) else request
