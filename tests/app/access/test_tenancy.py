from __future__ import annotations

import pytest

from app.access.principal import Scope
from app.access.tenancy import agent_for, agents_for, tenant_for, tenants_for
from app.domain.errors import Forbidden
from tests.app.access.principals import principal

READER = principal(Scope.COSTS)
ADMIN = principal(Scope.ADMIN)
BOUND = principal(Scope.COMPLETIONS, agent="scout")


class TestTenantToActFor:
    def test_left_out_is_the_callers_own(self) -> None:
        assert tenant_for(READER, None) == "acme"
        assert tenant_for(ADMIN, None) == "acme"

    def test_the_own_tenant_may_be_named_by_everybody(self) -> None:
        assert tenant_for(READER, "acme") == "acme"

    def test_a_foreign_tenant_is_forbidden(self) -> None:
        with pytest.raises(Forbidden):
            tenant_for(READER, "globex")

    def test_a_foreign_tenant_is_open_to_admin(self) -> None:
        assert tenant_for(ADMIN, "globex") == "globex"

    def test_the_empty_name_is_a_foreign_tenant_too(self) -> None:
        with pytest.raises(Forbidden):
            tenant_for(READER, "")


class TestTenantsToFilterBy:
    def test_left_out_is_the_callers_own(self) -> None:
        assert tenants_for(READER, None) == ("acme",)

    def test_left_out_is_all_tenants_for_admin(self) -> None:
        assert tenants_for(ADMIN, None) is None

    def test_one_foreign_tenant_among_them_is_forbidden(self) -> None:
        with pytest.raises(Forbidden):
            tenants_for(READER, ("acme", "globex"))

    def test_admin_gets_exactly_those_named(self) -> None:
        assert tenants_for(ADMIN, ("globex", "acme")) == ("globex", "acme")

    def test_none_named_matches_none(self) -> None:
        assert tenants_for(READER, ()) == ()
        assert tenants_for(ADMIN, ()) == ()


class TestAgentToActAs:
    def test_an_unbound_key_names_any_agent_or_none(self) -> None:
        assert agent_for(READER, "scout") == "scout"
        assert agent_for(READER, None) is None

    def test_a_bound_key_acts_as_its_agent(self) -> None:
        assert agent_for(BOUND, None) == "scout"
        assert agent_for(BOUND, "scout") == "scout"

    def test_a_bound_key_may_name_no_other(self) -> None:
        with pytest.raises(Forbidden):
            agent_for(BOUND, "painter")

    def test_admin_does_not_loosen_the_binding(self) -> None:
        with pytest.raises(Forbidden):
            agent_for(principal(Scope.ADMIN, agent="scout"), "painter")


class TestAgentsToFilterBy:
    def test_an_unbound_key_sees_those_it_asks_for(self) -> None:
        assert agents_for(READER, None) is None
        assert agents_for(READER, ("scout", "painter")) == ("scout", "painter")

    def test_a_bound_key_sees_its_own_agent_only(self) -> None:
        assert agents_for(BOUND, None) == ("scout",)
        assert agents_for(BOUND, ("scout",)) == ("scout",)
        assert agents_for(BOUND, ()) == ()
        with pytest.raises(Forbidden):
            agents_for(BOUND, ("scout", "painter"))
