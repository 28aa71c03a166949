from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest
from starlette.applications import Starlette

from app.access.key_rows import NewKey
from app.access.keys import KeyStore
from app.access.principal import Scope
from app.asgi import create_app
from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.runtime.clock import SystemClock
from app.secrets.reference import SecretReference
from app.settings import DatabaseSettings, RedisSettings, ServerSettings, Settings
from app.supervisor.restart_counts import RestartCounts
from tests.app.graphql.asgi import Answer, Client

pytestmark = pytest.mark.anyio

_OPERATING = Path(__file__).parents[2] / "docs" / "operating.md"
_METRIC = re.compile(r"`(greenlang_[a-z_]+)(?:\{[a-z,_]+\})?`")


@pytest.fixture
def settings(database_url: str, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("TEST_DATABASE", database_url)
    monkeypatch.setenv("TEST_REDIS", valkey_url)
    return Settings(
        database=DatabaseSettings(primary=SecretReference(env="TEST_DATABASE")),
        redis=RedisSettings(url=SecretReference(env="TEST_REDIS")),
    )


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Starlette]:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app


async def made_key(settings: Settings, *scopes: Scope) -> str:
    assert settings.database.primary is not None
    engines = build_engines(settings.database.primary.reveal(), (), settings.database)
    try:
        keys = KeyStore(Sessions(engines), SystemClock())
        return (await keys.create(NewKey(name=f"key of {len(scopes)} {scopes}", tenant="acme", scopes=frozenset(scopes)))).secret
    finally:
        await engines.close()


async def get(app: Starlette, path: str, key: str | None = None) -> Answer:
    return await Client(app, key, accept=None).send(method="GET", path=path)


class TestMetrics:
    async def test_are_shown_to_a_key_with_admin_only(self, settings: Settings) -> None:
        reader = await made_key(settings, Scope.COSTS)
        async with running(settings) as app:
            assert (await get(app, "/metrics")).status == 401
            assert (await get(app, "/metrics", "sk-wrong")).code == "UNAUTHENTICATED"
            assert (await get(app, "/metrics", reader)).code == "FORBIDDEN"

    async def test_of_an_administrator_are_in_prometheus_text(self, settings: Settings) -> None:
        admin = await made_key(settings, Scope.ADMIN)
        async with running(settings) as app:
            answer = await get(app, "/metrics", admin)
        assert answer.status == 200
        assert b"# TYPE greenlang_provider_requests_total counter" in answer.body

    async def test_name_what_runs_and_waits_before_anything_happened(self, settings: Settings) -> None:
        admin = await made_key(settings, Scope.ADMIN)
        async with running(settings) as app:
            seen = (await get(app, "/metrics", admin)).body.decode()
        names = {line.split()[2] for line in seen.splitlines() if line.startswith("# TYPE greenlang_")}
        names |= {f"{family.name}_total" for family in RestartCounts().collect()}
        documented = set(_METRIC.findall(_OPERATING.read_text(encoding="utf-8")))
        assert {name for name in names if not name.endswith("_created")} == documented
        values = dict(line.rsplit(" ", 1) for line in seen.splitlines() if line.startswith("greenlang_"))
        assert values["greenlang_redis_up"] == "1.0"
        for counter in (
            'budget_refusals_total{tenant=""}',
            "budget_alerts_total",
            'calls_total{status="failed",tenant=""}',
            "database_failovers_total",
            'http_requests_total{route="/graphql",status="500"}',
            'refusals_total{door="http",reason="unknown"}',
            'shed_total{kind="calls"}',
            'vector_store_failures_total{operation="search",store="pgvector"}',
        ):
            assert values[f"greenlang_{counter}"] == "0.0"

    async def test_have_a_port_of_their_own_where_one_is_configured(self, settings: Settings) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        server = ServerSettings(metrics_port=port)
        async with running(settings.model_copy(update={"server": server})):
            body = await asyncio.to_thread(lambda: urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read())
        assert b"greenlang_provider_requests_total" in body


class TestRefusedKeys:
    async def test_are_counted_by_reason_at_every_door(self, settings: Settings) -> None:
        admin, reader = await made_key(settings, Scope.ADMIN), await made_key(settings, Scope.COSTS)
        unknown = f"sk-{'0' * 12}-{'x' * 32}"
        async with running(settings) as app:
            await get(app, "/metrics")
            await get(app, "/metrics", reader)
            await get(app, "/exports/nothing")
            for key in (None, "sk-x", unknown, reader[:-1] + ("a" if reader[-1] != "a" else "b")):
                await Client(app, key).post("{ viewer { tenant } }")
            await Client(app, reader).post("{ providers { name } budgets { nodes { id } } }")
            seen = (await get(app, "/metrics", admin)).body.decode()
        lines = [line for line in seen.splitlines() if line.startswith("greenlang_refusals_total") and not line.endswith(" 0.0")]
        assert sorted(line.removeprefix("greenlang_refusals_total") for line in lines) == [
            '{door="export",reason="unknown"} 1.0',
            '{door="http",reason="forbidden"} 1.0',
            '{door="http",reason="malformed"} 1.0',
            '{door="http",reason="missing"} 1.0',
            '{door="http",reason="unknown"} 2.0',
            '{door="metrics",reason="forbidden"} 1.0',
            '{door="metrics",reason="missing"} 1.0',
        ]


class TestHealth:
    async def test_is_reported_without_a_key_and_truly(self, settings: Settings) -> None:
        async with running(settings) as app:
            assert (await get(app, "/healthz")).status == 200
            ready = await get(app, "/ready")
            started = await get(app, "/startup")
        assert (ready.status, ready.json["status"]) == (200, "ok")
        assert started.status == 200


class TestEveryAnswer:
    async def test_has_a_request_id_and_security_headers(self, settings: Settings) -> None:
        async with running(settings) as app:
            answer = await get(app, "/healthz")
        assert len(answer.headers["x-request-id"]) == 32
        assert answer.headers["x-frame-options"] == "DENY"
        assert "strict-transport-security" not in answer.headers

    @pytest.mark.parametrize("subdomains", [False, True])
    async def test_asks_for_tls_where_clients_reach_it_by_tls(self, settings: Settings, subdomains: bool) -> None:  # noqa: FBT001
        server = ServerSettings(public_url="https://greenlang.example.com", hsts_include_subdomains=subdomains)
        async with running(settings.model_copy(update={"server": server})) as app:
            answer = await get(app, "/healthz")
        assert ("includeSubDomains" in answer.headers["strict-transport-security"]) is subdomains


class TestPagesOfOtherOrigins:
    async def test_may_call_only_where_their_origin_is_allowed(self, settings: Settings) -> None:
        server = ServerSettings(allowed_origins=("https://dashboard.example.com",))
        async with running(settings.model_copy(update={"server": server})) as app:
            answers = {
                origin: await Client(
                    app, None, accept=None, headers={"origin": origin, "access-control-request-method": "POST"}
                ).send(method="OPTIONS")
                for origin in ("https://dashboard.example.com", "https://evil.example.com")
            }
        allowed, refused = answers.values()
        assert (allowed.status, allowed.headers["access-control-allow-origin"]) == (200, "https://dashboard.example.com")
        assert refused.status == 400
        assert "access-control-allow-origin" not in refused.headers


class TestOtherPaths:
    @pytest.mark.parametrize("path", ["/graphql/", "/", "/nope"])
    async def test_are_answered_in_json_too(self, settings: Settings, path: str) -> None:
        async with running(settings) as app:
            answer = await get(app, path)
        assert (answer.status, answer.code) == (404, "BAD_USER_INPUT")
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-frame-options"] == "DENY"

    async def test_with_another_method_say_which_may_be_used(self, settings: Settings) -> None:
        async with running(settings) as app:
            answer = await Client(app).send(method="DELETE", path="/metrics")
        assert (answer.status, answer.code) == (405, "METHOD_NOT_ALLOWED")
        assert "GET" in answer.headers["allow"]
