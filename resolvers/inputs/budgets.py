from __future__ import annotations

from decimal import Decimal

import strawberry
from strawberry import ID, UNSET, field

from app.access.principal import Principal
from app.access.tenancy import agent_for, tenant_for, tenants_for
from app.access.visibility import visible_tenant
from app.costs import budgets
from app.costs.budgets import (
    BudgetAuthority,
    BudgetChange,
    BudgetEnforcement,
    BudgetOwner,
    BudgetPeriod,
    BudgetScope,
    NewBudget,
)
from app.domain.errors import Forbidden
from resolvers.inputs.checks import check_length, check_texts
from resolvers.inputs.labels import LabelInput

_MAX_NAME_LENGTH = 256


@strawberry.input(description="Whose spending counts. Omitted fields match everything of the tenant.")
class BudgetScopeInput:
    tenant: str | None = field(
        description="Omit for the caller's own tenant. Null: all tenants together. Null or another tenant needs ADMIN.",
        default=UNSET,
    )
    agent: str | None = field(description="Only this agent's, such as `research-7`.")
    provider: str | None = field(description="Only calls that this provider answers, such as `anthropic`.")
    model: str | None = field(description="Only calls of this model, such as `claude-sonnet-5-5`.")
    label: LabelInput | None = field(description="Only calls with this label.")

    def to_domain(self, principal: Principal) -> BudgetScope:
        """Raises Forbidden for a tenant or an agent that the caller may not act for."""
        for name in ("agent", "provider", "model"):
            check_length(getattr(self, name), _MAX_NAME_LENGTH, ("scope", name))
        return BudgetScope(
            self._tenant(principal),
            agent_for(principal, self.agent),
            self.provider,
            self.model,
            None if self.label is None else self.label.to_domain(("scope", "label")),
        )

    def _tenant(self, principal: Principal) -> str | None:
        if self.tenant is UNSET:
            return principal.tenant
        if self.tenant is None and budget_authority(principal).owner is not BudgetOwner.INSTALLATION:
            raise Forbidden("all tenants together need the scope ADMIN")
        return None if self.tenant is None else tenant_for(principal, self.tenant)


@strawberry.input(
    description="A new budget. Its name is unique among the budgets of one owner in the scope's tenant; a repeat is a Conflict."
)
class BudgetCreateInput:
    name: str = field(description="For people: 1 to 200 characters, such as `Research, monthly`.")
    scope: BudgetScopeInput = field(description="Whose spending counts.")
    limit_usd: Decimal = field(description='How much may be spent in a period, such as `"250"`.')
    period: BudgetPeriod = field(description="How often the budget starts again from zero.", default=BudgetPeriod.MONTH)
    time_zone: str = field(
        description="The time zone of its days and months: an IANA name, such as `Europe/Berlin`.", default="UTC"
    )
    thresholds: list[int] = field(
        description="Percent of the limit. An alert is raised at each; at most 20 of 1 to 1000.",
        default_factory=lambda: [80, 90, 100],
    )
    enforcement: BudgetEnforcement = field(
        description="What happens to a call that the budget cannot pay for.", default=BudgetEnforcement.BLOCK
    )

    def to_domain(self, principal: Principal) -> NewBudget:
        check_texts(self)
        return NewBudget(
            self.name,
            self.scope.to_domain(principal),
            self.limit_usd,
            self.period,
            self.time_zone,
            tuple(self.thresholds),
            self.enforcement,
            budget_authority(principal).owner,
        )


@strawberry.input(description="Omitted fields stay as they are. What was spent stays counted.")
class BudgetUpdateInput:
    id: ID = field(description="Such as `bud_0199f2c1a4b87c3d9e1f5a6b7c8d9e0f`.")
    expected_version: int = field(description="Guards against lost updates. The `version` that the change is based on.")
    name: str | None = field(description="1 to 200 characters.")
    limit_usd: Decimal | None = field(description="Takes effect at once for calls that are not admitted yet.")
    thresholds: list[int] | None = field(description="Percent of the limit. At most 20 of 1 to 1000.")
    enforcement: BudgetEnforcement | None = field(description="What happens to a call that the budget cannot pay for.")
    owner: BudgetOwner | None = field(description="Who may change the budget from now on. Needs ADMIN.")

    def to_domain(self) -> BudgetChange:
        check_texts(self)
        return BudgetChange(
            self.expected_version,
            self.name,
            self.limit_usd,
            None if self.thresholds is None else tuple(self.thresholds),
            self.enforcement,
            self.owner,
        )


@strawberry.input(description="Which budgets. Omitted fields match everything that the caller may see.")
class BudgetFilter:
    tenant: str | None = field(description="Only this tenant's. A tenant other than the caller's needs ADMIN.")
    agent: str | None = field(description="Only budgets that count this agent's spending.")

    def to_domain(self, principal: Principal) -> budgets.BudgetFilter:
        """Raises Forbidden for a tenant or an agent that the caller may not read."""
        check_texts(self, ("filter",))
        return budget_filter(principal, self.tenant, self.agent)


def budget_authority(principal: Principal) -> BudgetAuthority:
    """A key that is bound to an agent acts only for that agent, also if it has ADMIN."""
    return BudgetAuthority(visible_tenant(principal), principal.agent)


def budget_filter(principal: Principal, tenant: str | None = None, agent: str | None = None) -> budgets.BudgetFilter:
    tenants = tenants_for(principal, None if tenant is None else (tenant,))
    return budgets.BudgetFilter(None if tenants is None else tenants[0], agent_for(principal, agent))
