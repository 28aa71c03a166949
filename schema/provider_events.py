"""Changes of providers as they happen."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import strawberry
from strawberry import field

from app.access.audience import Audience
from app.llm import provider_events
from app.llm.probes import HealthStatus
from app.llm.resilience.breaker import BreakerStatus
from resolvers import provider_events as resolve
from schema.describes import describes
from schema.providers import Provider
from schema.streams import Heartbeat, StreamEvent


@describes(provider_events.ProviderChanged, description="A provider's health, or the breaker of one of its models, has changed.")
class ProviderChanged(StreamEvent):
    provider: Provider = field(description="The provider as it is now.")
    model: str | None = field(description="The model whose breaker changed. Null for a change of health.")
    breaker: BreakerStatus | None = field(description="The new status of the breaker. Null for a change of health.")
    health: HealthStatus = field(description="The provider's health at that moment.")


ProviderEvent: TypeAlias = Annotated[
    ProviderChanged | Heartbeat,
    strawberry.union("ProviderEvent", description="A change, or a heartbeat every 15 seconds."),
]


@strawberry.type
class ProviderSubscriptions:
    provider_events = strawberry.field(
        resolver=resolve.provider_events,
        is_subscription=True,
        graphql_type=ProviderEvent,
        description="Health and breaker changes.",
        metadata={"broadcast": Audience.EVERYONE, "joined": resolve.greet},
    )
