"""Which tenants and agents a caller may name. A foreign tenant needs ADMIN; a key bound to an agent may name no other."""

from __future__ import annotations

from app.access.principal import Principal, Scope
from app.access.visibility import visible_tenant
from app.domain.errors import Forbidden


def tenant_for(principal: Principal, asked: str | None) -> str:
    """The tenant to act for: the one asked for, or the caller's own; raises Forbidden for a foreign one without ADMIN."""
    if asked is None or asked == principal.tenant:
        return principal.tenant
    if not principal.may(Scope.ADMIN):
        raise Forbidden("access to another tenant needs the scope ADMIN")
    return asked


def tenants_for(principal: Principal, asked: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The tenants to filter by; None is all of them, which only a caller with ADMIN who named none gets.

    Raises Forbidden if a foreign tenant is among those asked for without ADMIN. An empty tuple matches nothing.
    """
    if asked is None:
        tenant = visible_tenant(principal)
        return None if tenant is None else (tenant,)
    return tuple(tenant_for(principal, tenant) for tenant in asked)


def agent_for(principal: Principal, asked: str | None) -> str | None:
    """The agent to act as: the one asked for, or the one the key is bound to; raises Forbidden for another than that."""
    if principal.agent is None:
        return asked
    if asked is not None and asked != principal.agent:
        raise Forbidden("this key is bound to another agent")
    return principal.agent


def agents_for(principal: Principal, asked: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The agents to filter by: None is all. A key bound to an agent sees only that one, and Forbidden for another."""
    if principal.agent is None:
        return asked
    if asked is None:
        return (principal.agent,)
    return tuple(agent_for(principal, agent) or principal.agent for agent in asked)
