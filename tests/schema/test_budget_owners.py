"""A cap belongs to who set it: each change of each owner's budget, tried by each kind of key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import aclosing

import pytest
from sqlalchemy import text

from app.access.principal import Principal, Scope
from app.domain.errors import Forbidden
from tests.app.access.principals import principal
from tests.schema.api import ACME, ADMIN, BOUND, GLOBEX, Api, Data
from tests.schema.requests import ask, make_budget
from tests.schema.subjects import FORBIDDEN, GLOBEX_BOUND, READER, SALES, outcome, state

pytestmark = pytest.mark.anyio

UPDATE = """mutation Change($input: BudgetUpdateInput!) { budgetUpdate(input: $input) {
    __typename ... on Budget { owner version } ... on Problem { code message } ... on InvalidInput { path } } }"""
DELETE = "mutation Drop($id: ID!) { budgetDelete(id: $id) { __typename } }"
CREATE = "mutation Make($input: BudgetCreateInput!) { budgetCreate(input: $input) { __typename } }"
SEE = """query See($id: ID!) {
    budget(id: $id) { name owner } node(id: $id) { id ... on Budget { name owner } } budgets(first: 100) { nodes { name } } }"""
SOFTENED: tuple[Data, ...] = (
    {"limitUsd": "999"},
    {"thresholds": []},
    {"enforcement": "ALERT_ONLY"},
    {"name": "renamed"},
    {"owner": "TENANT"},
    {"limitUsd": "999", "expectedVersion": 7},
)

CALLERS: Mapping[str, Principal] = {
    "tenant": ACME,
    "agent": BOUND,
    "reader": READER,
    "administrator": ADMIN,
    "neighbour": GLOBEX,
}
YES, NO, GONE = "yes", FORBIDDEN, "NotFound"
MAY_UPDATE: Mapping[str, tuple[str, ...]] = {
    # whose budget, over what             tenant agent reader administrator neighbour
    "the tenant's":                       (YES,  GONE, NO,    YES,          GONE),
    "the tenant's, over the agent":       (YES,  NO,   NO,    YES,          GONE),
    "the agent's":                        (YES,  YES,  NO,    YES,          GONE),
    "another agent's":                    (YES,  GONE, NO,    YES,          GONE),
    "another tenant's":                   (GONE, GONE, NO,    YES,          YES),
    "another tenant's agent's":           (GONE, GONE, NO,    YES,          YES),
    "the installation's":                 (NO,   GONE, NO,    YES,          GONE),
    "the installation's, over the agent": (NO,   NO,   NO,    YES,          GONE),
    "the installation's, over all":       (GONE, GONE, NO,    YES,          GONE),
    "a default":                          (NO,   GONE, NO,    YES,          GONE),
    "a default, over the agent":          (NO,   NO,   NO,    YES,          GONE),
    "a default given to the tenant":      (YES,  GONE, NO,    YES,          GONE),
}  # fmt: skip
MAY_DELETE = {**MAY_UPDATE, "a default given to the tenant": (NO, GONE, NO, YES, GONE)}


async def make_defaults(api: Api, *scopes: tuple[str, str]) -> list[str]:
    """As the first call of a tenant or an agent makes them."""
    asked = [
        {
            "name": f"Default of {agent or tenant}",
            "tenant": tenant,
            "agent": agent,
            "limit_usd": 500,
            "period": "MONTH",
            "time_zone": "UTC",
            "thresholds": [100],
            "enforcement": "BLOCK",
        }
        for tenant, agent in scopes
    ]
    made = text(
        "with made as (select key, agent from materialise_defaults(cast(:defaults as jsonb)))"
        " select key, budget_open(key) from made order by agent"
    )
    async with api.services.sessions.write() as session:
        rows = await session.execute(made, {"defaults": json.dumps(asked)})
        return [f"bud_{row.key.hex}" for row in rows]


async def prepare(api: Api) -> dict[str, str]:
    """The ids of budgets of every owner."""
    research = {"tenant": "acme", "agent": "research"}
    makers: Mapping[str, tuple[Principal, Data]] = {
        "the tenant's": (ACME, {}),
        "the tenant's, over the agent": (ACME, {"agent": "research"}),
        "the agent's": (BOUND, {}),
        "another agent's": (SALES, {}),
        "another tenant's": (GLOBEX, {}),
        "another tenant's agent's": (GLOBEX_BOUND, {}),
        "the installation's": (ADMIN, {"tenant": "acme"}),
        "the installation's, over the agent": (ADMIN, research),
        "the installation's, over all": (ADMIN, {"tenant": None}),
    }
    made = {whose: (await make_budget(api, by, name=whose, scope=scope))["id"] for whose, (by, scope) in makers.items()}
    default, over_agent, given = await make_defaults(api, ("acme", ""), ("acme", "research"), ("acme", "sales"))
    assert await outcome(api, UPDATE, ADMIN, input={"id": given, "expectedVersion": 1, "owner": "TENANT"}) == "Budget"
    return made | {"a default": default, "a default, over the agent": over_agent, "a default given to the tenant": given}


async def version(api: Api, budget: str) -> int:
    found = await api.data("query V($id: ID!) { budget(id: $id) { version } }", ADMIN, id=budget)
    return int(found["budget"]["version"])


def column(table: Mapping[str, tuple[str, ...]], caller: str, done: str) -> dict[str, str]:
    place = list(CALLERS).index(caller)
    return {whose: done if row[place] == YES else row[place] for whose, row in table.items()}


@pytest.mark.parametrize("caller", CALLERS)
class TestEachKeyOnEachOwnersBudget:
    async def test_an_update_acts_or_changes_nothing(self, api: Api, caller: str) -> None:
        subjects, expected = await prepare(api), column(MAY_UPDATE, caller, "Budget")
        before = await state(api)
        for whose, budget in subjects.items():
            current = await version(api, budget)
            if expected[whose] != "Budget":
                for change in SOFTENED:
                    asked = {"id": budget, "expectedVersion": current, **change}
                    assert await outcome(api, UPDATE, CALLERS[caller], input=asked) == expected[whose], (whose, change)
        assert await state(api) == before
        for whose, budget in subjects.items():
            if expected[whose] == "Budget":
                asked = {"id": budget, "expectedVersion": await version(api, budget), "limitUsd": "999"}
                assert await outcome(api, UPDATE, CALLERS[caller], input=asked) == "Budget", whose

    async def test_a_deletion_acts_or_changes_nothing(self, api: Api, caller: str) -> None:
        subjects, expected = await prepare(api), column(MAY_DELETE, caller, "Deleted")
        before = await state(api)
        refused = {whose: budget for whose, budget in subjects.items() if expected[whose] != "Deleted"}
        assert {whose: await outcome(api, DELETE, CALLERS[caller], id=budget) for whose, budget in refused.items()} == {
            whose: expected[whose] for whose in refused
        }
        assert await state(api) == before
        for whose in subjects.keys() - refused.keys():
            assert await outcome(api, DELETE, CALLERS[caller], id=subjects[whose]) == "Deleted", whose


class TestWhoSeesABudget:
    @pytest.mark.parametrize(
        ("caller", "like"),
        [(ACME, "tenant"), (READER, "tenant"), (BOUND, "agent"), (GLOBEX, "neighbour"), (ADMIN, "administrator")],
    )
    async def test_by_its_id_as_a_node_and_in_the_list_alike(self, api: Api, caller: Principal, like: str) -> None:
        """Budgets that a key may not see are not found when it tries to change them."""
        subjects, table = await prepare(api), column(MAY_UPDATE, like, "Budget")
        for whose, budget in subjects.items():
            found = await api.data(SEE, caller, id=budget)
            if table[whose] == GONE:
                assert (found["budget"], found["node"]) == (None, None), whose
            else:
                assert found["node"] == {"id": budget, **found["budget"]}, whose
                assert found["budget"]["name"] in {node["name"] for node in found["budgets"]["nodes"]}
        assert len(found["budgets"]["nodes"]) == sum(1 for word in table.values() if word != GONE)

    async def test_with_its_owner(self, api: Api) -> None:
        subjects = await prepare(api)
        owners = {whose: (await api.data(SEE, ADMIN, id=budget))["budget"]["owner"] for whose, budget in subjects.items()}
        assert owners == {
            whose: "INSTALLATION"
            if whose.startswith("the installation") or whose in {"a default", "a default, over the agent"}
            else "AGENT"
            if whose.endswith("agent's")
            else "TENANT"
            for whose in subjects
        }

    async def test_when_it_refuses_a_call_unless_it_is_over_all_tenants(self, api: Api) -> None:
        await make_budget(api, ADMIN, name="cap", scope={"tenant": "acme"}, limitUsd="0.000001")
        asker = principal(Scope.COMPLETIONS, tenant="acme", key=9)
        seer = principal(Scope.COMPLETIONS, Scope.BUDGETS_READ, tenant="acme", key=10)
        assert (await ask(api, ACME))["budget"]["name"] == (await ask(api, seer))["budget"]["name"] == "cap"
        for blind in (asker, BOUND):
            refused = await ask(api, blind)
            assert (refused["__typename"], refused["budget"], refused["remainingUsd"]) == ("BudgetExceeded", None, None)
            assert "cap" not in refused["message"]


class TestTheScopeBudgetsRead:
    async def test_sees_budgets_and_alerts_and_watches_them(self, api: Api) -> None:
        made = await make_budget(api, ADMIN, name="cap", scope={"tenant": "acme"}, limitUsd="0.005", thresholds=[1])
        await ask(api)
        [alert] = (await api.data("{ budgetAlerts { nodes { id budget { id forecastUsd } } } }", READER))["budgetAlerts"]["nodes"]
        assert alert["budget"]["id"] == made["id"]
        assert (await api.data("query N($id: ID!) { node(id: $id) { id } }", READER, id=alert["id"]))["node"]["id"] == alert["id"]
        async with aclosing(api.events("subscription { budgetAlerts { __typename } }", READER)) as events:
            assert await anext(events) == {"budgetAlerts": {"__typename": "Heartbeat"}}

    async def test_makes_none(self, api: Api) -> None:
        before = await state(api)
        assert await outcome(api, CREATE, READER, input={"name": "n", "scope": {}, "limitUsd": "1"}) == FORBIDDEN
        assert await state(api) == before


class TestTheCapHolds:
    async def test_beside_looser_budgets_of_the_tenant_and_with_tighter_ones(self, api: Api) -> None:
        await make_budget(api, ADMIN, name="cap", scope={"tenant": "acme"}, limitUsd="0.000001")
        loose = await make_budget(api, ACME, name="cap", limitUsd="1000")
        assert (loose["__typename"], (await ask(api))["budget"]["remainingUsd"]) == ("Budget", "0.000001")
        assert await outcome(api, DELETE, ACME, id=loose["id"]) == "Deleted"
        assert (await make_budget(api, ACME, name="cap", limitUsd="1000"))["__typename"] == "Budget"
        assert (await ask(api))["__typename"] == "BudgetExceeded"
        assert (await ask(api, GLOBEX))["__typename"] == "Completion"
        await make_budget(api, GLOBEX, name="tighter", limitUsd="0.0000005")
        assert (await ask(api, GLOBEX))["budget"]["name"] == "tighter"

    async def test_of_a_tenant_on_its_agent_beside_looser_budgets_of_the_agent(self, api: Api) -> None:
        await make_budget(api, ACME, name="leash", scope={"agent": "research"}, limitUsd="0.000001")
        assert (await make_budget(api, BOUND, name="leash", limitUsd="1000"))["__typename"] == "Budget"
        assert (await ask(api, BOUND))["budget"]["name"] == "leash"

    async def test_after_an_administrator_took_a_default_away_and_set_another(self, api: Api) -> None:
        [default] = await make_defaults(api, ("acme", ""))
        assert await outcome(api, DELETE, ADMIN, id=default) == "Deleted"
        assert await make_defaults(api, ("acme", "")) == []
        again = await make_budget(api, ADMIN, name="Default of acme", scope={"tenant": "acme"}, limitUsd="0.000001")
        assert (await ask(api))["budget"]["name"] == "Default of acme"
        assert await outcome(api, DELETE, ACME, id=again["id"]) == FORBIDDEN


class TestNames:
    async def test_of_one_owner_are_free_for_the_others(self, api: Api) -> None:
        scopes: tuple[tuple[Principal, Data], ...] = (
            (ACME, {}),
            (BOUND, {}),
            (SALES, {}),
            (GLOBEX, {}),
            (ADMIN, {"tenant": "acme"}),
            (ADMIN, {"tenant": None}),
        )
        for expected in ("Budget", "Conflict"):
            made = [(await make_budget(api, caller, name="same", scope=scope))["__typename"] for caller, scope in scopes]
            assert made == [expected] * len(scopes)

    async def test_are_kept_by_their_owner_at_a_change(self, api: Api) -> None:
        made = await make_budget(api, ACME, name="second")
        await make_budget(api, ADMIN, name="first", scope={"tenant": "acme"})
        asked = {"id": made["id"], "expectedVersion": 1, "name": "first"}
        assert await outcome(api, UPDATE, ACME, input=asked) == "Budget"
        given = {"id": made["id"], "expectedVersion": 2, "owner": "INSTALLATION"}
        before = await state(api)
        answer = (await api.data(UPDATE, ADMIN, input=given))["budgetUpdate"]
        assert (answer["__typename"], answer["message"]) == ("Conflict", "A budget with the name 'first' exists.")
        assert await state(api) == before


class TestAnotherOwner:
    async def test_is_set_by_an_administrator_and_counts_at_once(self, api: Api) -> None:
        made = await make_budget(api, ADMIN, name="cap", scope={"tenant": "acme", "agent": "research"})
        change = {"id": made["id"], "limitUsd": "300"}
        for number, (owner, tenant, agent) in enumerate(
            (("TENANT", "Budget", FORBIDDEN), ("AGENT", "Budget", "Budget"), ("INSTALLATION", FORBIDDEN, FORBIDDEN))
        ):
            current = await version(api, made["id"])
            given = {"id": made["id"], "expectedVersion": current, "owner": owner}
            answer = (await api.data(UPDATE, ADMIN, input=given))["budgetUpdate"]
            assert answer == {"__typename": "Budget", "owner": owner, "version": current + 1}, number
            for caller, expected in ((ACME, tenant), (BOUND, agent)):
                asked = {**change, "expectedVersion": await version(api, made["id"])}
                assert await outcome(api, UPDATE, caller, input=asked) == expected, (owner, caller.key_name)

    @pytest.mark.parametrize("caller", [ACME, BOUND], ids=["tenant", "agent"])
    async def test_is_set_by_no_other_key_even_on_its_own(self, api: Api, caller: Principal) -> None:
        made = await make_budget(api, caller)
        before = await state(api)
        for owner in ("INSTALLATION", "TENANT", "AGENT"):
            raised = await api.raised(UPDATE, caller, input={"id": made["id"], "expectedVersion": 1, "owner": owner})
            assert isinstance(raised, Forbidden)
        assert await state(api) == before

    @pytest.mark.parametrize(
        ("scope", "owner"),
        [({"tenant": None}, "TENANT"), ({"tenant": None, "agent": "research"}, "AGENT"), ({"tenant": "acme"}, "AGENT")],
    )
    async def test_is_one_that_the_scope_names(self, api: Api, scope: Data, owner: str) -> None:
        made = await make_budget(api, ADMIN, scope=scope)
        before = await state(api)
        answer = (await api.data(UPDATE, ADMIN, input={"id": made["id"], "expectedVersion": 1, "owner": owner}))["budgetUpdate"]
        assert (answer["__typename"], answer["path"]) == ("InvalidInput", ["owner"])
        assert await state(api) == before


class TestAKeyOfAnAgentWithAdmin:
    """Such keys could be made before; they go on working, for their agent."""

    async def test_lifts_no_cap_on_its_agent(self, api: Api) -> None:
        bound = principal(Scope.ADMIN, tenant="acme", agent="research", key=11)
        subjects = await prepare(api)
        for whose, expected in column(MAY_UPDATE, "agent", "Budget").items():
            asked = {"id": subjects[whose], "expectedVersion": await version(api, subjects[whose]), "limitUsd": "999"}
            if whose != "another tenant's agent's":
                assert await outcome(api, UPDATE, bound, input=asked) == expected, whose
        assert await outcome(api, CREATE, bound, input={"name": "n", "scope": {"tenant": None}, "limitUsd": "1"}) == FORBIDDEN
        assert (await make_budget(api, bound))["__typename"] == "Budget"
