from __future__ import annotations

import strawberry
from strawberry import ID, field

from app.access.principal import Principal
from app.costs import alerts
from app.domain.ids import parse_id
from resolvers.inputs.budgets import budget_filter
from resolvers.inputs.checks import check_count, check_texts

_MAX_BUDGET_IDS = 100


@strawberry.input(description="Which alerts. Omitted fields match everything that the caller may see.")
class BudgetAlertFilter:
    tenant: str | None = field(description="Only of this tenant's budgets. A tenant other than the caller's needs ADMIN.")
    budget_ids: list[ID] | None = field(description="Only of these budgets, at most 100.")
    min_threshold: int | None = field(description="Only alerts at this percentage of the limit or above, such as 90.")

    def to_domain(self, principal: Principal) -> alerts.BudgetAlertFilter:
        """Raises Refused(InvalidInput), and Forbidden for a tenant that the caller may not read."""
        check_texts(self, ("filter",))
        check_count(self.budget_ids, _MAX_BUDGET_IDS, ("filter", "budgetIds"))
        where = alert_filter(principal, self.tenant)
        keys = [parse_id("bud", text) for text in self.budget_ids or ()]
        return alerts.BudgetAlertFilter(
            where.tenant,
            None if self.budget_ids is None else tuple(key for key in keys if key is not None),
            self.min_threshold or 0,
            where.agent,
        )


def alert_filter(principal: Principal, tenant: str | None = None) -> alerts.BudgetAlertFilter:
    """Makes the filter for all alerts that the caller may see, or for one tenant's."""
    where = budget_filter(principal, tenant)
    return alerts.BudgetAlertFilter(where.tenant, agent=where.agent)
