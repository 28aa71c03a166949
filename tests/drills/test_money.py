"""Money while things die: what the provider billed and what the ledger has agree on every call.

`DRILL_CALLS` sets how many calls are made at least while server processes are killed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections import Counter
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import cast

import aiohttp
import psutil
import pytest

from tests.drills.agents import Agents, Data, alerts_followed, server_processes_killed, until_true
from tests.integration.test_accounting import billed, price
from tests.processes import family, named, wait_until
from tests.servers import Client, RunningServer, start_server

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.timeout(600)]

CALLS = int(os.environ.get("DRILL_CALLS", "1500"))
CALLS_WITHOUT_POSTGRES = 500
KILLS = 3
AT_ONCE = 24
HOLD_SECONDS = 4
SHORT_HOLDS = {"GREENLANG_BUDGETS__HOLD_TTL": f"{HOLD_SECONDS}s"}
THRESHOLDS = [1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
_log = logging.getLogger(__name__)
USD_PER_CALL = Decimal("0.0001")

MAKE_BUDGET = """
mutation($input: BudgetCreateInput!) { budgetCreate(input: $input) { __typename ... on Budget { id } } }"""
BUDGETS = "{ budgets { nodes { heldUsd spentUsd limitUsd } } }"
RAISED = "{ budgetAlerts(first: 100) { nodes { threshold } } }"
SPENT = """
{ costs(filter: {period: {from: "2026-01-01T00:00:00Z", to: "2100-01-01T00:00:00Z"}}) { totals { costUsd } } }"""


async def execute(server: RunningServer, key: str, query: str, variables: Data | None = None) -> Data:
    async with aiohttp.ClientSession() as session:
        return cast(Data, await Client(session, server, key).execute(query, variables))


async def watch_spending(server: RunningServer, key: str) -> None:
    """A budget over everything that refuses nothing."""
    limit = str(CALLS * USD_PER_CALL)
    asked = {"name": "all", "scope": {}, "limitUsd": limit, "thresholds": THRESHOLDS, "enforcement": "ALERT_ONLY"}
    assert (await execute(server, key, MAKE_BUDGET, {"input": asked}))["budgetCreate"]["__typename"] == "Budget"


def check_agreement(server: RunningServer, records: list[Data]) -> None:
    """Every attempt that the provider billed is in the ledger: with its own figures, or as an estimate of the same call."""
    entries = {cast(str, entry["request_id"]): entry for entry in billed(server)}
    confirmed = {record["providerRequestId"]: record for record in records if record["confirmed"]}
    assert len(confirmed) == sum(record["confirmed"] for record in records), "an attempt is charged twice"
    assert confirmed.keys() <= entries.keys(), "the ledger has what no provider billed"
    assert {name: Decimal(record["costUsd"]) for name, record in confirmed.items()} == {
        name: price(entries[name]) for name in confirmed
    }
    agents = {entry["body_hash"]: confirmed[name]["agent"] for name, entry in entries.items() if name in confirmed}
    estimates = Counter(record["agent"] for record in records if not record["confirmed"])
    lost = [entry for name, entry in entries.items() if name not in confirmed]
    unknown = [entry for entry in lost if entry["body_hash"] not in agents]
    assert len(unknown) <= sum(count for agent, count in estimates.items() if agent not in agents.values())
    missing = Counter(agents[entry["body_hash"]] for entry in lost if entry["body_hash"] in agents)
    assert missing <= estimates, "the provider billed what the ledger has not"


async def check_sums(server: RunningServer, key: str, records: list[Data]) -> None:
    """Budget, roll-ups and records say the same, and nothing is held."""
    (budget,) = (await execute(server, key, BUDGETS))["budgets"]["nodes"]
    total = sum(Decimal(record["costUsd"]) for record in records)
    assert Decimal(budget["spentUsd"]) == total
    assert Decimal((await execute(server, key, SPENT))["costs"]["totals"]["costUsd"]) == total
    assert budget["heldUsd"] == "0"


class TestServerProcessesKilledDuringCalls:
    async def test_ledger_alerts_and_the_providers_log_agree(self, tmp_path: Path) -> None:
        with start_server(tmp_path / "data", "--workers", "2", environ=SHORT_HOLDS) as server:
            assert server.key is not None
            agents = Agents(server, server.key)
            await watch_spending(server, server.key)
            async with alerts_followed(server, server.key) as seen:
                async with server_processes_killed(server, workers=2, every=2.0) as killed:
                    await agents.ask_all(CALLS, at_once=AT_ONCE, until_answered=True, until=lambda: len(killed) >= KILLS)
                await agents.wait_for(BUDGETS, "heldUsd", "0", 3 * HOLD_SECONDS)
                records = await agents.records()
                raised = [node["threshold"] for node in (await execute(server, server.key, RAISED))["budgetAlerts"]["nodes"]]
                await until_true(lambda: len(seen) >= len(raised))
            (budget,) = (await execute(server, server.key, BUDGETS))["budgets"]["nodes"]
            check_agreement(server, records)
            await check_sums(server, server.key, records)
        share = Decimal(budget["spentUsd"]) * 100 / Decimal(budget["limitUsd"])
        assert sorted(raised) == sorted(seen) == [threshold for threshold in THRESHOLDS if threshold <= share]
        assert len(raised) > 3
        assert agents.answered.keys() == set(range(len(agents.answered)))
        assert len(agents.answered) >= CALLS
        estimates = sum(not record["confirmed"] for record in records)
        _log.info(
            "%d calls, %d kills, %d records, %d estimates, %d alerts",
            len(agents.answered),
            len(killed),
            len(records),
            estimates,
            len(seen),
        )


class TestPostgresKilledDuringCalls:
    @pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
    async def test_no_call_is_answered_without_a_row(self, tmp_path: Path, sign: signal.Signals) -> None:
        with start_server(tmp_path / "data", "--workers", "2", environ=SHORT_HOLDS) as server:
            assert server.key is not None
            agents = Agents(server, server.key)
            await watch_spending(server, server.key)
            asking = asyncio.create_task(agents.ask_all(CALLS_WITHOUT_POSTGRES, at_once=AT_ONCE, until_answered=False))
            for answers in (100, 200):
                await asyncio.to_thread(wait_until, partial(agents.have, answers), 60)
                await asyncio.to_thread(restart_postgres, server, sign)
            await asking
            await agents.wait_for(BUDGETS, "heldUsd", "0", 3 * HOLD_SECONDS)
            records = await agents.records()
            check_agreement(server, records)
            await check_sums(server, server.key, records)
        assert set(agents.answered.values()) <= {record["completionId"] for record in records if record["confirmed"]}
        assert len(agents.answered) > CALLS_WITHOUT_POSTGRES // 2
        _log.info("%d of %d calls answered, %d records", len(agents.answered), CALLS_WITHOUT_POSTGRES, len(records))


def restart_postgres(server: RunningServer, sign: signal.Signals) -> None:
    """Kills the postmaster and waits for the next one."""
    before = postmaster(server)
    before.send_signal(sign)
    wait_until(lambda: postmaster_or_none(server) not in {None, before})


def postmaster(server: RunningServer) -> psutil.Process:
    found = postmaster_or_none(server)
    assert found is not None
    return found


def postmaster_or_none(server: RunningServer) -> psutil.Process | None:
    """The oldest of PostgreSQL's processes."""
    try:
        processes = named(family(server.process.pid), "postgres")
        return min(processes, key=psutil.Process.create_time, default=None)
    except psutil.NoSuchProcess:
        return None
