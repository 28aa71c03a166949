"""Settings of the whole service over real stores and the simulator, for tests that open it in their own process. Each opening is
a process of its own to the others: its connections, leases and fleet are its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from redis import Redis

from app.gateway.completions import CompletionRequest
from app.llm.messages import Message, Role, Text
from app.secrets.reference import SecretReference
from app.settings import (
    BreakerSettings,
    ContentSettings,
    DatabaseSettings,
    ModelSettings,
    ProviderKindName,
    ProviderLimits,
    ProviderSettings,
    ProviderTimeouts,
    RedisSettings,
    RetrySettings,
    RouteSettings,
    Settings,
)
from tests.simulators import RunningSimulator

ANTHROPIC, OPENAI = "anthropic/claude-haiku-5-5", "openai/gpt-5.4-mini"
QUICK = ProviderTimeouts(
    connect=timedelta(seconds=1), first_token=timedelta(seconds=1), idle=timedelta(seconds=0.5), total=timedelta(seconds=6)
)
ROOMY = ProviderLimits(requests_per_minute=1_000_000, tokens_per_minute=100_000_000)
QUICK_RETRY = RetrySettings(first_delay=timedelta(seconds=0.2), max_delay=timedelta(seconds=1))


@dataclass(frozen=True)
class Stores:
    """Where processes meet: a database, a Redis, and a folder for secrets."""

    database_url: str
    valkey_url: str
    folder: Path

    @classmethod
    def emptied(cls, database_url: str, valkey_url: str, folder: Path) -> Stores:
        """Without what other tests left in Redis: breakers, buckets and leases are shared by all who use it."""
        with Redis.from_url(valkey_url) as server:
            server.flushdb()
        return cls(database_url, valkey_url, folder)

    def settings(
        self,
        simulator: RunningSimulator,
        *,
        timeouts: ProviderTimeouts = QUICK,
        retry: RetrySettings = QUICK_RETRY,
        breaker: BreakerSettings | None = None,
        content: ContentSettings | None = None,
    ) -> Settings:
        """Both of the simulator's providers; the route `default` is Anthropic first, `reverse` OpenAI first."""
        key = self.secret("provider", "sk-simulated")
        providers = tuple(
            ProviderSettings(
                name=kind.value,
                kind=kind,
                base_url=url,
                api_keys=(key,),
                models=(ModelSettings(name=target.partition("/")[2]),),
                timeouts=timeouts,
                retry=retry,
                limits=ROOMY,
                breaker=breaker or BreakerSettings(),
                simulated=True,
            )
            for kind, url, target in (
                (ProviderKindName.ANTHROPIC, simulator.anthropic_url, ANTHROPIC),
                (ProviderKindName.OPENAI, simulator.openai_url, OPENAI),
            )
        )
        return Settings(
            database=DatabaseSettings(primary=self.secret("database", self.database_url), pool_min=0),
            redis=RedisSettings(url=self.secret("redis", self.valkey_url)),
            providers=providers,
            routes=(
                RouteSettings(name="default", targets=(ANTHROPIC, OPENAI)),
                RouteSettings(name="reverse", targets=(OPENAI, ANTHROPIC)),
            ),
            content=content or ContentSettings(),
        )

    def secret(self, name: str, value: str) -> SecretReference:
        file = self.folder / name
        file.write_text(value, encoding="utf-8")
        return SecretReference(file=file)


@contextmanager
def full_redis(valkey_url: str) -> Iterator[None]:
    """It answers, and refuses every write."""
    with Redis.from_url(valkey_url) as server:
        usual = server.config_get("maxmemory")["maxmemory"]
        server.config_set("maxmemory", 1)
        try:
            yield
        finally:
            server.config_set("maxmemory", usual)


def asked(
    text: str = "Hello", *, model: str | None = ANTHROPIC, cap: int = 200, key: str | None = None, timeout: float | None = None
) -> CompletionRequest:
    return CompletionRequest(
        messages=(Message(Role.USER, (Text(text),)),),
        model=model,
        max_output_tokens=cap,
        idempotency_key=key,
        timeout=None if timeout is None else timedelta(seconds=timeout),
    )
