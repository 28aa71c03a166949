"""An expected refusal is data. `Refused` carries the problem. If the field's union has the problem as a member, it becomes the
result. Otherwise it leaves the field as a top-level error."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from app.domain.errors import Refused

Arguments = ParamSpec("Arguments")
Made = TypeVar("Made")
Problem = TypeVar("Problem")

PROBLEMS = "__problems__"


def refusals(
    *problems: type[Problem],
) -> Callable[[Callable[Arguments, Awaitable[Made]]], Callable[Arguments, Awaitable[Made | Problem]]]:
    """Lets a resolver return `problems`, those that are members of its field's union, in place of the result."""

    def decorate(resolve: Callable[Arguments, Awaitable[Made]]) -> Callable[Arguments, Awaitable[Made | Problem]]:
        @functools.wraps(resolve)
        async def resolved(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Made | Problem:
            try:
                return await resolve(*args, **kwargs)
            except Refused as refused:
                if isinstance(refused.reason, problems):
                    return refused.reason
                raise

        setattr(resolved, PROBLEMS, problems)
        return resolved

    return decorate
