"""What all transports of the process share."""

from __future__ import annotations

from dataclasses import dataclass

from app.access.principal import Principal, Scope
from app.graphql.body import BodyParser
from app.graphql.broadcast import Broadcasts
from app.graphql.connections import Authenticate, Connections
from app.graphql.engine import Engine
from app.runtime.clock import Clock
from app.runtime.offload import Offload
from app.settings import LimitSettings
from app.telemetry.read_metrics import ReadMetrics
from app.web.capacity import Capacity, Holder
from app.web.misuse import Misuse


@dataclass(frozen=True, slots=True)
class Operations:
    """`bodies` counts the bodies that are being received, `calls` the queries and mutations in flight, `body_bytes` their
    bytes. Each is shared among keys and tenants. Large requests are processed in the threads of `offload`."""

    engine: Engine
    authenticate: Authenticate
    connections: Connections
    broadcasts: Broadcasts
    bodies: Capacity
    calls: Capacity
    body_bytes: Capacity
    parser: BodyParser
    offload: Offload
    limits: LimitSettings
    clock: Clock
    misuse: Misuse

    def show(self, metrics: ReadMetrics) -> None:
        """Adds what is in flight to the metrics."""
        limits = {"calls": self.calls, "bodies": self.bodies, "body_bytes": self.body_bytes}
        metrics.gauge(
            "greenlang_in_flight",
            "Queries and mutations that run, bodies that are being received, and bytes of bodies that are held.",
            lambda: [([name], capacity.in_flight) for name, capacity in limits.items()],
            ["kind"],
        )
        metrics.counter(
            "greenlang_shed",
            "Requests that were refused as OVERLOADED, by what was full.",
            lambda: [([name], capacity.refused) for name, capacity in limits.items()],
            ["kind"],
        )
        metrics.gauge("greenlang_open_streams", "Open WebSockets and event streams.", lambda: [((), len(self.connections))])
        metrics.gauge("greenlang_open_subscriptions", "Subscriptions that run.", lambda: [((), self.connections.subscriptions)])


def holder_of(principal: Principal) -> Holder:
    return Holder(principal.key_id, principal.tenant, is_admin=Scope.ADMIN in principal.scopes)
