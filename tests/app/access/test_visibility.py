from __future__ import annotations

import pytest

from app.access.principal import Principal, Scope
from app.access.visibility import may_see, visible_tenant
from tests.app.access.principals import principal

ACME = principal(Scope.COMPLETIONS)
ADMIN = principal(Scope.ADMIN, tenant="operations")
BOUND = principal(Scope.COMPLETIONS, agent="research")
BOUND_ADMIN = principal(Scope.ADMIN, agent="research")


class TestRowsOfOneTenant:
    @pytest.mark.parametrize(
        ("caller", "agent", "sees"),
        [
            (ACME, "research", True),
            (principal(Scope.COMPLETIONS, tenant="globex"), None, False),
            (ADMIN, None, True),
            (BOUND, "research", True),
            (BOUND, "sales", False),
            (BOUND, None, False),
            (BOUND_ADMIN, "sales", False),
        ],
    )
    def test_are_visible_to_the_tenant_and_to_administrators_and_of_one_agent_to_a_bound_key(
        self, caller: Principal, agent: str | None, *, sees: bool
    ) -> None:
        assert may_see(caller, "acme", agent) == sees


class TestRowsOfAllTenantsTogether:
    @pytest.mark.parametrize(("caller", "sees"), [(ACME, False), (BOUND, False), (ADMIN, True), (BOUND_ADMIN, False)])
    def test_are_visible_to_administrators_whose_key_is_not_bound(self, caller: Principal, *, sees: bool) -> None:
        assert may_see(caller, None, None) == sees


class TestVisibleTenant:
    def test_is_the_callers_own_and_for_an_administrator_every_one(self) -> None:
        assert [visible_tenant(caller) for caller in (ACME, BOUND, ADMIN, BOUND_ADMIN)] == ["acme", "acme", None, None]
