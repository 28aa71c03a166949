from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, TypeAlias

import strawberry
from strawberry import ID, UNSET, Parent

from app.costs.budgets import BudgetExceeded
from app.domain.errors import Refused
from app.domain.ids import parse_id
from app.domain.problems import Conflict, InvalidInput, NotFound
from app.gateway.completions import NO_SUCH_COMPLETION, Completion
from app.gateway.streams.events import CompletionEvent, CompletionFailed
from app.llm.messages import ToolCall
from app.llm.provider_state import to_json, with_state
from app.llm.routing import ProvidersFailed, RateLimited
from resolvers.info import Info
from resolvers.inputs.completions import CompletionInput
from resolvers.inputs.paging import Cursor
from resolvers.refusals import refusals

Request: TypeAlias = Annotated[CompletionInput, strawberry.argument(name="input", description="The call to make.")]
CompletionId: TypeAlias = Annotated[
    ID, strawberry.argument(name="id", description="Such as `cmp_0199f2c1a4b87c3d9e1f5a6b7c8d9e0f`.")
]


@refusals(BudgetExceeded, RateLimited, ProvidersFailed, InvalidInput, Conflict)
async def completion_create(info: Info, request: Request) -> Completion:
    return await info.context.services.gateway.complete(await request.read(), info.context.principal)


@refusals(BudgetExceeded, RateLimited, InvalidInput, Conflict)
async def completion_start(info: Info, request: Request) -> Completion:
    return await info.context.services.gateway.start(await request.read(), info.context.principal)


@refusals(NotFound)
async def completion_cancel(info: Info, completion_id: CompletionId) -> Completion:
    found = await completion(info, completion_id)
    if found is None:
        raise Refused(NO_SUCH_COMPLETION)
    return await info.context.services.gateway.cancel(found.key, info.context.principal)


async def completion(info: Info, completion_id: CompletionId) -> Completion | None:
    key = parse_id("cmp", completion_id)
    return None if key is None else await info.context.services.gateway.completion(key, info.context.principal)


def reasoning(root: Parent[Completion]) -> object:
    return with_state(root.reasoning, root.provider_state, root.tool_calls)


def provider_state(root: Parent[Completion | ToolCall]) -> object:
    return to_json(root.provider_state)


async def completion_events(
    info: Info,
    completion_id: CompletionId,
    after: Annotated[
        Cursor | None, strawberry.argument(description="Return events after this cursor. Omit to start from the first event.")
    ] = UNSET,
) -> AsyncGenerator[CompletionEvent, None]:
    key = parse_id("cmp", completion_id)
    if key is None:
        yield CompletionFailed(1, info.context.clock.now(), NO_SUCH_COMPLETION, None)
        return
    cursor = after if isinstance(after, str) else None
    async with aclosing(info.context.services.gateway.events(key, cursor, info.context.principal)) as events:
        async for event in _with_refusals(events, info):
            yield event


async def completion_stream(info: Info, request: Request) -> AsyncGenerator[CompletionEvent, None]:
    try:
        asked = await request.read()
    except Refused as refused:
        yield CompletionFailed(1, info.context.clock.now(), refused.reason, None)
        return
    async with aclosing(info.context.services.gateway.stream(asked, info.context.principal)) as events:
        async for event in _with_refusals(events, info):
            yield event


async def _with_refusals(events: AsyncGenerator[CompletionEvent, None], info: Info) -> AsyncGenerator[CompletionEvent, None]:
    """A refusal is the last event."""
    number = 0
    try:
        async for event in events:
            number = event.number
            yield event
    except Refused as refused:
        yield CompletionFailed(number + 1, info.context.clock.now(), refused.reason, None)
