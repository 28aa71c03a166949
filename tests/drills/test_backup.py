"""A backup restored into a new server, by the commands of docs/backup.md: the same ledger, nothing held, no webhook twice."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import cast

import aiohttp
import pytest

from app.embedded.binaries import find_postgres
from tests.app.events.test_webhook_sender import SECRET, Receiver, receiver
from tests.clusters import PASSWORD, Cluster, running_cluster
from tests.drills.agents import Data, until_true
from tests.drills.test_money import BUDGETS, HOLD_SECONDS, MAKE_BUDGET, SHORT_HOLDS, execute
from tests.integration.test_accounting import COMPLETE
from tests.processes import family, kill_all, wait_gone
from tests.servers import ROOT, RunningServer, start_server

__all__ = ["receiver"]

pytestmark = [pytest.mark.anyio, pytest.mark.drill]

BACK_UP, RESTORE, SUMS = re.findall(r"```sh\n(.*?)\n```", (ROOT / "docs" / "backup.md").read_text(encoding="utf-8"), re.DOTALL)
OWNER, SERVING, LEDGER = "greenlang_owner", "greenlang_service", "ledger"
EMPTY_DATABASE = (
    f"create role {OWNER} login password '{PASSWORD}'",
    f"create role {SERVING} login password '{PASSWORD}'",
    f"create database {LEDGER} owner {OWNER}",
    f"revoke temporary on database {LEDGER} from public",
)
EARLIER_MONTHS = """
    insert into usage_records (key, at, operation, tenant, agent, labels, key_name, provider, model, outcome,
        uncached_input_tokens, cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, visible_output_tokens,
        reasoning_tokens, cost_usd, latency_ms, confirmed)
    select gen_random_uuid(), now() - make_interval(hours => n * 3), 'COMPLETION', 'tenant' || n % 5, 'agent' || n % 10,
        '{}', 'key', 'openai', 'model' || n % 8, 'SUCCEEDED', 500, 0, 0, 0, 100, 0, random()::numeric(30, 12), 100, true
    from generate_series(1, 2000) n
"""
ANSWERED = {"idempotencyKey": "before the backup", "messages": [{"role": "USER", "text": "What is kept?"}]}
SILENT = {"messages": [{"role": "USER", "text": "Hello [[simulator fault=silent]]"}]}
HELD = "select sum(held_usd) from budget_periods"
DELIVERED = "select count(*) from webhook_deliveries where outcome = 'DELIVERED'"


@pytest.fixture
def servers() -> Iterator[tuple[Cluster, Cluster]]:
    with ExitStack() as stack:
        old, new = stack.enter_context(running_cluster(1)), stack.enter_context(running_cluster(1))
        for cluster in (old, new):
            asyncio.run(cluster.primary.execute(*EMPTY_DATABASE))
        yield old, new


def sh(command: str, folder: Path, **variables: str) -> str:
    path = f"{find_postgres(None).bin}:{os.environ['PATH']}"
    environ = os.environ | {"PATH": path} | variables
    done = subprocess.run(["sh", "-ec", command], cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def alerting_budget(server: RunningServer, key: str, name: str) -> None:
    """It raises an alert with the next call, at the latest."""
    asked = {"name": name, "scope": {}, "limitUsd": "0.00001", "thresholds": [80], "enforcement": "ALERT_ONLY"}
    assert (await execute(server, key, MAKE_BUDGET, {"input": asked}))["budgetCreate"]["__typename"] == "Budget"


async def complete(server: RunningServer, key: str, asked: Data) -> Data:
    return cast(Data, (await execute(server, key, COMPLETE, {"input": asked}))["completionCreate"])


async def held(server: RunningServer, key: str) -> set[Decimal]:
    return {Decimal(budget["heldUsd"]) for budget in (await execute(server, key, BUDGETS))["budgets"]["nodes"]}


async def value(cluster: Cluster, query: str) -> object:
    async with cluster.primary.connected(database=LEDGER) as connection:
        return await connection.fetchval(query)


async def test_a_restored_backup_has_the_same_ledger_and_repeats_nothing(
    servers: tuple[Cluster, Cluster], receiver: Receiver, tmp_path: Path
) -> None:
    old, new = servers
    kept = SHORT_HOLDS | {
        "GREENLANG_WEBHOOKS": f'[{{ url = "{receiver.url}", secret = {{ env = "HOOK" }}, allow_private = true }}]',
        "GREENLANG_CONTENT__ENCRYPTION_KEYS": base64.b64encode(bytes(range(32))).decode(),
        "HOOK": SECRET,
    }
    with start_server(tmp_path / "old", environ=kept | stores(old)) as server:
        key = server.key
        assert key is not None
        await execute_as_owner(old, EARLIER_MONTHS)
        await alerting_budget(server, key, "first")
        first = await complete(server, key, ANSWERED)
        await until_true(lambda: len(receiver.got) == 1)
        while not await value(old, DELIVERED):  # noqa: ASYNC110 (the condition is the database's)
            await asyncio.sleep(0.05)
        asking = asyncio.create_task(complete(server, key, SILENT))
        while await held(server, key) == {Decimal(0)}:  # noqa: ASYNC110 (the condition is the server's)
            await asyncio.sleep(0.05)
        sh(BACK_UP, tmp_path, OWNER_URL=old.primary.url(OWNER, LEDGER))
        everything = family(server.process.pid)
        kill_all(everything)
        wait_gone([process for process in everything if process.pid != server.process.pid])
        with pytest.raises(aiohttp.ClientError):
            await asking

    sh(RESTORE, tmp_path, NEW_OWNER_URL=new.primary.url(OWNER, LEDGER))
    sums = [sh(SUMS, tmp_path, NEW_OWNER_URL=cluster.primary.url(OWNER, LEDGER)) for cluster in servers]
    assert sums[0] == sums[1]
    assert len(sums[0].splitlines()) > 5 * 5, "five tenants in at least five months each"
    assert cast(Decimal, await value(new, HELD)) > 0

    with start_server(tmp_path / "new", environ=kept | stores(new)) as server:
        assert server.key is None, "it has made another first key"
        again = await complete(server, key, ANSWERED)
        assert again["id"] == first["id"]
        async with asyncio.timeout(5 * HOLD_SECONDS):
            while await held(server, key) != {Decimal(0)}:  # noqa: ASYNC110 (the condition is the server's)
                await asyncio.sleep(0.2)
        assert await value(new, "select count(*) from usage_records where not confirmed") == 1
        await alerting_budget(server, key, "second")
        await until_true(lambda: len(receiver.got) >= 2)
        await asyncio.sleep(1)
        assert len({headers["webhook-id"] for headers, _ in receiver.got}) == len(receiver.got) == 2


def stores(cluster: Cluster) -> dict[str, str]:
    primary = cluster.primary
    return {
        "GREENLANG_DATABASE__OWNER": primary.url(OWNER, LEDGER),
        "GREENLANG_DATABASE__PRIMARY": primary.url(SERVING, LEDGER),
    }


async def execute_as_owner(cluster: Cluster, statement: str) -> None:
    async with cluster.primary.connected(OWNER, LEDGER) as connection:
        await connection.execute(statement)
