"""The same scripts through Sentinel and Cluster, on real servers."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from app.domain.errors import SettingsError, StoreUnavailable
from app.redis.clients import RedisClient, Script, connect_redis
from app.runtime.clock import SystemClock
from app.settings import RedisSettings
from tests.redis_servers import RedisServers, free_ports

pytestmark = [pytest.mark.anyio, pytest.mark.drill]

WITH_PASSWORDS = (
    ("requirepass of-the-data", "masterauth of-the-data"),
    (
        "user watcher on >of-the/sentinels ~* &* +@all",
        "user default off",
        "sentinel sentinel-user watcher",
        "sentinel sentinel-pass of-the/sentinels",
        "sentinel auth-pass main of-the-data",
    ),
)


async def until_it_works(client: RedisClient, script: Script, key: str) -> object:
    async with asyncio.timeout(20):
        while True:
            try:
                return await client.evaluate(script, key, uuid4().hex, 60)
            except StoreUnavailable:
                await asyncio.sleep(0.05)


class TestSentinel:
    @pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
    async def test_the_new_primary_is_used_after_a_failover(self, tmp_path: Path, end: signal.Signals) -> None:
        servers, script = RedisServers.embedded(tmp_path), Script("peers")
        async with servers.watched(replicas=2) as (url, primary), servers.connected(url) as client:
            assert await until_it_works(client, script, "test:peers") == 1
            primary.send_signal(end)
            assert await until_it_works(client, script, "test:peers") == 2

    async def test_sentinels_have_a_user_and_a_password_of_their_own(self, tmp_path: Path) -> None:
        data, sentinel = WITH_PASSWORDS
        servers = RedisServers(
            tmp_path,
            RedisServers.embedded(tmp_path).program,
            data=data,
            sentinel=sentinel,
            login=":of-the-data@",
            sentinel_query="?sentinel_user=watcher&sentinel_password=of-the%2Fsentinels",
        )
        async with servers.watched(replicas=1) as (url, _), servers.connected(url) as client:
            assert await until_it_works(client, Script("peers"), "test:peers") == 1
            wrong = url.replace("of-the%2Fsentinels", "wrong")
            async with servers.connected(wrong) as refused:
                with pytest.raises(StoreUnavailable) as failure:
                    await refused.evaluate(Script("peers"), "test:peers", "me", 60)
                assert "invalid username-password pair" in str(failure.value.__cause__)

    async def test_a_sentinel_that_accepts_and_is_silent_is_passed_over(self, tmp_path: Path) -> None:
        async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        servers = RedisServers.embedded(tmp_path)
        async with (
            servers.watched(replicas=1) as (url, _),
            servers.connected(url.replace("://", f"://127.0.0.1:{port},")) as client,
        ):
            assert await until_it_works(client, Script("peers"), "test:peers") == 1
        silent.close()
        await silent.wait_closed()

    async def test_many_callers_at_once_are_no_outage(self, tmp_path: Path) -> None:
        servers, script = RedisServers.embedded(tmp_path), Script("peers")
        async with servers.watched(replicas=1) as (url, _):
            settings = RedisSettings(socket_timeout=RedisSettings().socket_timeout * 50)
            client = connect_redis(url, settings, SystemClock())
            counts = await asyncio.gather(*(client.evaluate(script, f"test:{number}", "me", 60) for number in range(200)))
            assert counts == [1] * 200
            await client.close()

    async def test_no_caller_waits_for_sentinels_that_are_gone(self) -> None:
        hosts = ",".join(f"127.0.0.1:{port}" for port in free_ports(3))
        client = connect_redis(f"redis+sentinel://{hosts}/main", RedisSettings(), SystemClock())
        started = asyncio.get_running_loop().time()
        with pytest.raises(StoreUnavailable):
            await client.evaluate(Script("peers"), "test:peers", "me", 60)
        assert asyncio.get_running_loop().time() - started < 1.0
        await client.close()


class TestCluster:
    async def test_scripts_reach_the_node_of_their_key(self, tmp_path: Path) -> None:
        servers, script = RedisServers.embedded(tmp_path), Script("peers")
        async with servers.cluster(nodes=3) as (url, _), servers.connected(url) as client:
            counts = [await until_it_works(client, script, f"test:{number}") for number in range(20)]
            assert counts == [1] * 20


class TestPasswordThatChanges:
    async def test_is_used_by_new_connections_and_the_one_before_goes_on_until_the_server_knows_it(self, tmp_path: Path) -> None:
        servers, script = RedisServers.embedded(tmp_path), Script("peers")
        servers = RedisServers(tmp_path, servers.program, data=("requirepass first",), login=":first@")
        async with servers.alone() as url, servers.connected(url) as client:
            assert await until_it_works(client, script, "test:peers") == 1
            client.take_url(url.replace(":first@", ":second@"))
            assert await until_it_works(client, script, "test:peers") == 2
            async with Redis.from_url(url) as administrator:
                await administrator.config_set("requirepass", "second")
                await administrator.client_kill_filter(_type="normal", skipme=False)
            assert await until_it_works(client, script, "test:peers") == 3
            with pytest.raises(SettingsError, match="restart"):
                client.take_url(url.replace(":first@", ""))

    async def test_to_a_wrong_one_and_then_the_right_one_leaves_the_one_that_the_server_knows_in_use(
        self, tmp_path: Path
    ) -> None:
        servers, script = RedisServers.embedded(tmp_path), Script("peers")
        servers = RedisServers(tmp_path, servers.program, data=("requirepass first",), login=":first@")
        async with servers.alone() as url, servers.connected(url) as client:
            for password in ("wrong", "second", "second"):
                client.take_url(url.replace(":first@", f":{password}@"))
            assert await until_it_works(client, script, "test:peers") == 1
            async with Redis.from_url(url) as administrator:
                await administrator.config_set("requirepass", "second")
                await administrator.client_kill_filter(_type="normal", skipme=False)
            assert await until_it_works(client, script, "test:peers") == 2
