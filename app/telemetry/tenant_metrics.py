"""Paid calls that ended, by the tenants that the operator has named. All others share the empty label, so that the number of
series does not grow with the number of tenants."""

from __future__ import annotations

from collections.abc import Collection

from prometheus_client import CollectorRegistry, Counter

from app.telemetry.call_ended import CallEnded

_STATUSES = ("finished", "failed", "cancelled")


class TenantMetrics:
    def __init__(self, registry: CollectorRegistry, tenants: Collection[str]) -> None:
        self._tenants = frozenset(tenants)
        self._calls = Counter("greenlang_calls", "Paid calls that ended.", ("tenant", "status"), registry=registry)
        self._cost = Counter("greenlang_call_cost_usd", "US dollars of paid calls that ended.", ("tenant",), registry=registry)
        for tenant in ("", *self._tenants):
            self._cost.labels(tenant)
            for status in _STATUSES:
                self._calls.labels(tenant, status)

    def add(self, ended: CallEnded) -> None:
        tenant = ended.tenant if ended.tenant in self._tenants else ""
        self._calls.labels(tenant, ended.status.lower()).inc()
        if ended.cost_usd is not None:
            self._cost.labels(tenant).inc(float(ended.cost_usd))
