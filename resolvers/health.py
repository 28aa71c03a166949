from __future__ import annotations

from strawberry import Parent

from app.health.checks import Finding, Report, Verdict
from app.llm.probes import HealthStatus
from resolvers.info import Info

_STATUS = {
    Verdict.OK: HealthStatus.UP,
    Verdict.DEGRADED: HealthStatus.DEGRADED,
    Verdict.UNAVAILABLE: HealthStatus.DOWN,
}


async def health(info: Info) -> Report:
    return await info.context.services.health.details()


def status(root: Parent[Report]) -> HealthStatus:
    return _STATUS[root.checked]


def check_status(root: Parent[Finding]) -> HealthStatus:
    return HealthStatus.UP if root.ok else HealthStatus.DOWN
