from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest

from app.domain.errors import SettingsError, StoreUnavailable
from app.redis.clients import RedisClient, Script, Server, connect_redis
from app.runtime.clock import SystemClock
from app.settings import RedisSettings
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio

SETTINGS = RedisSettings(socket_timeout=timedelta(milliseconds=100))


OVER_TLS = ["rediss+sentinel://u:p@a,b:1/main?sentinel_user=w&sentinel_password=p%2Fq", "rediss+cluster://u:p@a:1,b"]


async def ping(server: Server) -> bool:
    return bool(await server.ping())


class TestScripts:
    async def test_a_script_the_server_has_forgotten_is_sent_again(self, valkey_url: str) -> None:
        redis = connect_redis(valkey_url, SETTINGS, SystemClock())
        script = Script("peers")
        assert await redis.evaluate(script, "test:forgotten", "me", 10) == 1

        async def forget(server: Server) -> object:
            return await server.script_flush()

        await redis.execute(forget)
        assert await redis.evaluate(script, "test:forgotten", "you", 10) == 2
        assert await redis.evaluate(script, "test:forgotten", "me", 0) == 1
        await redis.close()


class _Outage:
    """A server that refuses, then answers; it counts who got through to it."""

    def __init__(self) -> None:
        self.asked = 0
        self.away = True

    async def __call__(self, server: Server) -> str:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise ConnectionRefusedError
        return "there"


class TestAnOutage:
    async def test_it_costs_nothing_after_three_failures(self) -> None:
        clock, outage = ManualClock(), _Outage()
        redis = connect_redis("redis://127.0.0.1:1/0", SETTINGS, clock)
        for _ in range(20):
            with pytest.raises(StoreUnavailable):
                await redis.execute(outage)
        assert outage.asked == 3
        assert not redis.available
        await redis.close()

    async def test_it_is_logged_once_for_each_change_of_state(self, caplog: pytest.LogCaptureFixture) -> None:
        clock, outage = ManualClock(), _Outage()
        redis = connect_redis("redis://127.0.0.1:1/0", SETTINGS, clock, setting="cache.local.url")
        for _ in range(2):
            outage.away = True
            for _ in range(30):
                clock.move(0.7)
                with pytest.raises(StoreUnavailable):
                    await redis.execute(outage)
            outage.away = False
            clock.move(10)
            for _ in range(5):
                await redis.execute(outage)
        said = [(each.message, each.__dict__["setting"]) for each in caplog.records if each.name == "app.redis.clients"]
        assert said == [("Redis does not answer", "cache.local.url"), ("Redis answers again", "cache.local.url")] * 2
        await redis.close()

    async def test_one_try_is_let_through_a_pause_and_success_opens_the_way(self) -> None:
        clock, outage = ManualClock(), _Outage()
        redis = connect_redis("redis://127.0.0.1:1/0", SETTINGS, clock)
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await redis.execute(outage)
        clock.move(0.6)
        results = await asyncio.gather(*(redis.execute(outage) for _ in range(10)), return_exceptions=True)
        assert all(isinstance(result, StoreUnavailable) for result in results)
        assert outage.asked == 4
        outage.away = False
        clock.move(10)
        assert await redis.execute(outage) == "there"
        assert await asyncio.gather(*(redis.execute(outage) for _ in range(5))) == ["there"] * 5
        await redis.close()

    async def test_a_server_that_accepts_and_is_silent_is_left_after_the_socket_timeout(self) -> None:
        async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        redis = connect_redis(f"redis://127.0.0.1:{port}/0", SETTINGS, SystemClock())
        started = asyncio.get_running_loop().time()
        with pytest.raises(StoreUnavailable):
            await redis.execute(ping)
        assert asyncio.get_running_loop().time() - started < 1.0
        await redis.close()
        silent.close()
        await silent.wait_closed()

    async def test_a_delay_of_our_own_event_loop_is_none(self, valkey_url: str) -> None:
        redis = connect_redis(valkey_url, SETTINGS, SystemClock())
        await redis.execute(ping)
        for _ in range(5):
            asyncio.get_running_loop().call_soon(time.sleep, 2 * SETTINGS.socket_timeout.total_seconds())
            await redis.execute(ping)
        await redis.close()

    async def test_an_error_of_ours_is_no_outage(self, valkey_url: str) -> None:
        redis = connect_redis(valkey_url, SETTINGS, SystemClock())

        async def wrong(server: Server) -> object:
            return await server.execute_command("NO SUCH COMMAND")

        for _ in range(5):
            with pytest.raises(Exception, match="unknown command"):
                await redis.execute(wrong)
        assert redis.available
        await redis.close()


class TestAServerThatTakesNoWrites:
    @pytest.mark.parametrize(
        "refusal",
        [
            "OOM command not allowed when used memory > 'maxmemory'.",
            "MISCONF Valkey is configured to save RDB snapshots, but it's currently unable to persist to disk.",
            "NOREPLICAS Not enough good replicas to write.",
        ],
    )
    async def test_is_away_for_who_writes_and_there_for_who_reads(self, valkey_url: str, refusal: str) -> None:
        redis = connect_redis(valkey_url, SETTINGS, SystemClock())

        async def write(server: Server) -> object:
            return await server.eval(f'return redis.error_reply("{refusal}")', 0)

        async def write_many(server: Server) -> object:
            pipeline = server.pipeline(transaction=False)
            pipeline.eval(f'return redis.error_reply("{refusal}")', 0)
            return await pipeline.execute()

        for act in (write, write_many) * 3:
            with pytest.raises(StoreUnavailable):
                await redis.execute(act)
        assert await redis.execute(ping)
        await redis.close()


class TestUrls:
    @pytest.mark.parametrize(
        "url",
        [
            "http://localhost",
            "redis+sentinel://localhost:26379",
            "redis+sentinel://,localhost/service",
            "redis+cluster://",
            "localhost:6379",
            "redis://user:hidden@localhost:port/0",
            "redis://user:hidden@localhost?db=hidden",
            "redis://user:hidden@localhost?no_such_option=1",
            "rediss://user:hidden@localhost?ssl_cert_reqs=hidden",
            "redis+sentinel://user:hidden@localhost:port/service",
            "redis+sentinel://user:hidden@localhost/service/database",
            "redis+sentinel://localhost/service?sentinel_pasword=hidden",
            "redis+cluster://localhost?sentinel_password=hidden",
        ],
    )
    async def test_another_form_is_refused_by_name_and_without_its_secrets(self, url: str) -> None:
        with pytest.raises(SettingsError, match=r"^redis\.url: ") as refused:
            connect_redis(url, SETTINGS, SystemClock())
        assert "hidden" not in str(refused.value)

    @pytest.mark.parametrize(
        "url",
        [
            "rediss://:secret@h:1/2",
            "unix:///run/redis.sock",
            "redis+sentinel://u:p@a,b:1/main/3",
            "redis+cluster://a:1,b:2",
            *OVER_TLS,
        ],
    )
    async def test_every_kind_of_server_can_be_named(self, url: str) -> None:
        client = connect_redis(url, SETTINGS, SystemClock())
        assert isinstance(client, RedisClient)
        assert client.available
        await client.close()
