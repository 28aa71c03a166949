"""Calls that hold their worst case and are never sent: what a process leaves that dies at that moment."""

from __future__ import annotations

from app.access.principal import Principal
from app.costs.holds import AdmissionRequest, Admitted
from app.gateway.completions import CompletionRequest
from app.services import Services


async def admit_only(services: Services, request: CompletionRequest, principal: Principal) -> Admitted:
    call = await services.planner.plan(request, principal)
    estimate = call.estimate(call.plan.targets[0])
    admitted = await services.ledger.admit(AdmissionRequest(call.key, call.operation, call.payer, estimate, call.idempotency))
    assert isinstance(admitted, Admitted)
    return admitted
