"""Lists that can grow are connections: at most 100 nodes at a time, after a cursor."""

from __future__ import annotations

from typing import Generic, TypeVar

import strawberry
from strawberry import field

from app.domain import paging
from resolvers.inputs.paging import Cursor
from schema.describes import describes

NodeType = TypeVar("NodeType")


@describes(paging.PageInfo, description="Position of a page in its list.")
class PageInfo:
    has_next_page: bool = field(description="True if there are items after endCursor.")
    has_previous_page: bool = field(description="True if there are items before startCursor.")
    start_cursor: Cursor | None = field(description="Cursor of the first node. Null on an empty page.")
    end_cursor: Cursor | None = field(
        description="Cursor of the last node. Pass it as `after` to get the next page. Null on an empty page."
    )


@strawberry.type(description="One item of a page with its cursor.")
class Edge(Generic[NodeType]):
    cursor: Cursor = field(description="Cursor of the node. Pass it as `after` to get the items after it.")
    node: NodeType = field(description="The item itself.")


@strawberry.type(description="One page of a list.")
class Connection(Generic[NodeType]):
    nodes: list[NodeType] = field(description="The items of the page.")
    edges: list[Edge[NodeType]] = field(description="The items of the page with their cursors.")
    page_info: PageInfo = field(description="Position of the page in its list.")
