"""What all transports of the process share."""

from __future__ import annotations

from dataclasses import dataclass

from app.aside import Aside
from app.clock import Clock
from app.graphql.body import BodyParser
from app.graphql.broadcast import Broadcasts
from app.graphql.connections import Authenticate, Connections
from app.graphql.engine import Engine
from app.settings import LimitSettings
from app.web.load import Capacity
from app.web.misuse import Misuse


@dataclass(frozen=True, slots=True)
class Operations:
    """`calls` counts queries and mutations in flight, `body_bytes` what they came in; what is large is read `aside`."""

    engine: Engine
    authenticate: Authenticate
    connections: Connections
    broadcasts: Broadcasts
    calls: Capacity
    body_bytes: Capacity
    parser: BodyParser
    aside: Aside
    limits: LimitSettings
    clock: Clock
    misuse: Misuse
