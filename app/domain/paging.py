"""Pages of a list that can grow: at most 100 items at a time, after an opaque cursor."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar
from uuid import UUID

from app.domain.errors import Refused
from app.domain.problems import InvalidInput

Node = TypeVar("Node")

MAX_PAGE = 100


def encode_cursor(kind: str, *position: str) -> str:
    """`kind` prevents that the cursor of one list is used for another."""
    return base64.urlsafe_b64encode(json.dumps([kind, *position]).encode()).decode().rstrip("=")


def decode_cursor(kind: str, cursor: str, parts: int) -> tuple[str, ...]:
    """Returns the position in a cursor of `kind`. Raises Refused(InvalidInput) for any other text."""
    try:
        found = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError):
        found = None
    if (
        not isinstance(found, list)
        or len(found) != parts + 1
        or found[0] != kind
        or not all(isinstance(part, str) and _is_storable(part) for part in found)
    ):
        raise not_a_cursor()
    return tuple(found[1:])


def not_a_cursor(of: str = "list") -> Refused:
    return Refused(InvalidInput(f"this is not a cursor of this {of}", ("after",)))


def encode_time_cursor(kind: str, at: datetime, key: UUID) -> str:
    """The cursor of a list that is ordered by time, and by key if times are equal."""
    return encode_cursor(kind, at.isoformat(), key.hex)


def decode_time_cursor(kind: str, cursor: str) -> tuple[datetime, UUID]:
    """Raises Refused(InvalidInput)."""
    at, key = decode_cursor(kind, cursor, 2)
    try:
        return _decode_time(at), UUID(hex=key)
    except ValueError as error:
        raise not_a_cursor() from error


def _decode_time(text: str) -> datetime:
    """Raises ValueError."""
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is None:
            raise ValueError("a time without its offset")
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time before the first year or after the last") from None


def _is_storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


@dataclass(frozen=True, slots=True)
class PageRequest:
    first: int = 50
    after: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.first <= MAX_PAGE:
            raise Refused(InvalidInput(f"first is {self.first}; it must be 1 to {MAX_PAGE}", ("first",)))


@dataclass(frozen=True, slots=True)
class Edge(Generic[Node]):
    node: Node
    cursor: str


@dataclass(frozen=True, slots=True)
class PageInfo:
    has_next_page: bool
    has_previous_page: bool
    start_cursor: str | None
    end_cursor: str | None


@dataclass(frozen=True, slots=True)
class Page(Generic[Node]):
    edges: tuple[Edge[Node], ...]
    page_info: PageInfo

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(edge.node for edge in self.edges)


def build_page(request: PageRequest, found: Sequence[Node], cursor: Callable[[Node], str]) -> Page[Node]:
    """`found` holds up to `first + 1` nodes. The last of them only shows that there is a next page."""
    edges = tuple(Edge(node, cursor(node)) for node in found[: request.first])
    return Page(
        edges,
        PageInfo(
            has_next_page=len(found) > request.first,
            has_previous_page=request.after is not None,
            start_cursor=edges[0].cursor if edges else None,
            end_cursor=edges[-1].cursor if edges else None,
        ),
    )
