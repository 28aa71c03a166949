"""Whose rows a caller may see. Rows of another tenant need ADMIN. A key that is bound to an agent sees only that agent's rows,
whatever its scopes."""

from __future__ import annotations

from app.access.principal import Principal, Scope


def visible_tenant(principal: Principal) -> str | None:
    """The one tenant whose rows the caller may see; None means all tenants."""
    return None if principal.may(Scope.ADMIN) else principal.tenant


def may_see(principal: Principal, tenant: str | None, agent: str | None) -> bool:
    """Whether the caller may see a row of this tenant and agent. A tenant of None means that the row belongs to all tenants
    together."""
    return visible_tenant(principal) in {None, tenant} and principal.agent in {None, agent}
