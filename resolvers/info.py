"""The context of an operation, for resolvers."""

from __future__ import annotations

from typing import TypeAlias

import strawberry

from app.context import OperationContext

Info: TypeAlias = strawberry.Info[OperationContext, None]
