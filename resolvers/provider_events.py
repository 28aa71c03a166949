from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from strawberry import UNSET

from app.context import OperationContext
from app.llm.provider_events import ProviderEvent
from resolvers.info import Info
from resolvers.inputs.paging import Resume


async def provider_events(info: Info, after: Resume = UNSET) -> AsyncGenerator[ProviderEvent, None]:
    cursor = after if isinstance(after, str) else None
    async with aclosing(info.context.services.provider_events.follow(cursor)) as events:
        async for event in events:
            yield event


def greet(context: OperationContext) -> None:
    context.services.provider_events.greet()
