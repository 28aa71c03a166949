"""Whether the process can serve."""

from __future__ import annotations

import strawberry
from strawberry import field

from app.health import checks
from app.llm.probes import HealthStatus
from resolvers import health as resolve
from schema.describes import describes


@describes(checks.Finding, description="The result of one check.")
class HealthCheck:
    name: str = field(description="What was checked, such as `postgresql` or `provider_openai`.")
    status: HealthStatus = field(resolver=resolve.check_status, description="UP or DOWN.")
    required: bool = field(description="True if the process cannot serve without it.")
    took_ms: float = field(description="How long the check took.")
    reason: str | None = field(
        description="Why it is not UP. A category; never an address or a text of the store. Null if it is UP."
    )


@describes(checks.Report, description="Whether the process that answers can serve, by checks that are at most 5 seconds old.")
class Health:
    status: HealthStatus = field(
        resolver=resolve.status,
        description="DOWN if something required is away. DEGRADED if something else is away.",
    )
    draining: bool = field(description="True if the process was asked to stop. `/ready` then answers 503.")
    checks: list[HealthCheck] = field(description="Every check.")


@strawberry.type
class HealthQueries:
    health = strawberry.field(
        resolver=resolve.health,
        graphql_type=Health | None,
        description="What `/ready` says, with reasons; needs ADMIN.",
    )
