"""Which tenants and agents a caller may name. Another tenant needs ADMIN. A key that is bound to an agent may name no other
agent."""

from __future__ import annotations

from app.access.principal import Principal, Scope
from app.access.visibility import visible_tenant
from app.domain.errors import Forbidden


def tenant_for(principal: Principal, asked: str | None) -> str:
    """Returns the requested tenant, or the caller's own. Raises Forbidden for another tenant without ADMIN."""
    if asked is None or asked == principal.tenant:
        return principal.tenant
    if not principal.may(Scope.ADMIN):
        raise Forbidden("access to another tenant needs the scope ADMIN")
    return asked


def tenants_for(principal: Principal, asked: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Returns the tenants to filter by. None means all tenants; only a caller with ADMIN that requested none gets it.

    Raises Forbidden if another tenant is requested without ADMIN. An empty tuple matches nothing.
    """
    if asked is None:
        tenant = visible_tenant(principal)
        return None if tenant is None else (tenant,)
    return tuple(tenant_for(principal, tenant) for tenant in asked)


def agent_for(principal: Principal, asked: str | None) -> str | None:
    """Returns the requested agent, or the one that the key is bound to. Raises Forbidden if the key is bound to another agent."""
    if principal.agent is None:
        return asked
    if asked is not None and asked != principal.agent:
        raise Forbidden("this key is bound to another agent")
    return principal.agent


def agents_for(principal: Principal, asked: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Returns the agents to filter by; None means all. A key that is bound to an agent gets only that one, and Forbidden for
    another."""
    if principal.agent is None:
        return asked
    if asked is None:
        return (principal.agent,)
    return tuple(agent_for(principal, agent) or principal.agent for agent in asked)
