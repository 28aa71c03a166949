"""Lists that can grow are connections: at most 100 nodes at a time, from a cursor on."""

from __future__ import annotations

from typing import Generic, TypeVar

import strawberry
from strawberry import field

from app import paging
from resolvers.inputs.paging import Cursor
from schema.describes import describes

NodeType = TypeVar("NodeType")


@describes(paging.PageInfo, description="Where a page stands in its list.")
class PageInfo:
    has_next_page: bool = field(description="There is more after endCursor.")
    has_previous_page: bool = field(description="There is something before startCursor.")
    start_cursor: Cursor | None = field(description="Position of the first node; null on an empty page.")
    end_cursor: Cursor | None = field(description="Position of the last node, to pass as `after`; null on an empty page.")


@strawberry.type(description="One entry of a page and its position.")
class Edge(Generic[NodeType]):
    cursor: Cursor = field(description="Position of the node, to pass as `after`.")
    node: NodeType = field(description="The entry itself.")


@strawberry.type(description="One page of a list.")
class Connection(Generic[NodeType]):
    nodes: list[NodeType] = field(description="The entries of the page, where their positions do not matter.")
    edges: list[Edge[NodeType]] = field(description="The entries of the page with their positions.")
    page_info: PageInfo = field(description="Where the page stands in its list.")
