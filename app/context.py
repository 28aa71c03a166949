"""What one operation may use. It is made anew for every operation, and for every event of a subscription."""

from __future__ import annotations

from dataclasses import dataclass

from app.access.allowance import Allowance
from app.access.principal import Principal
from app.loaders import Loaders
from app.runtime.clock import Clock
from app.services import Services


@dataclass(frozen=True, slots=True)
class OperationContext:
    services: Services
    principal: Principal
    loaders: Loaders
    request_id: str
    clock: Clock
    allowance: Allowance
