"""The configuration, parsed once into nested frozen groups. Every key is documented in greenlang.example.toml."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from app.secrets import SecretReference


class Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerSettings(Group):
    host: str = "127.0.0.1"
    port: int = 8400
    data_dir: Path = Path(".greenlang")
    workers: int = 1
    max_in_flight: int = 2000
    retry_after: timedelta = timedelta(seconds=1)
    production: bool = False
    allowed_origins: tuple[str, ...] = ()
    metrics_port: int | None = None
    shutdown_grace: timedelta = timedelta(seconds=20)
    log_level: str = "info"


class DatabaseSettings(Group):
    """`primary` left out: the embedded PostgreSQL. `statement_cache = false` for PgBouncer before 1.21."""

    primary: SecretReference | None = None
    replicas: tuple[SecretReference, ...] = ()
    pool_size: int = 10
    max_overflow: int = 40
    pool_timeout: timedelta = timedelta(seconds=5)
    connect_timeout: timedelta = timedelta(seconds=2)
    statement_timeout: timedelta = timedelta(seconds=30)
    statement_cache: bool = True


class RedisSettings(Group):
    """`url` left out: the embedded Valkey."""

    url: SecretReference | None = None
    socket_timeout: timedelta = timedelta(milliseconds=100)


class ProviderKindName(StrEnum):
    ANTHROPIC = "anthropic"
    OPENAI = "openai"
    OPENAI_COMPATIBLE = "openai-compatible"


class PriceSettings(Group):
    """US dollars per million tokens."""

    input_usd: Decimal
    output_usd: Decimal
    cache_read_usd: Decimal | None = None
    cache_write_usd: Decimal | None = None
    cache_write_1h_usd: Decimal | None = None


class ModelSettings(Group):
    name: str
    price: PriceSettings | None = None
    context_tokens: int | None = None
    max_output_tokens: int | None = None


class ProviderLimits(Group):
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    queue_timeout: timedelta = timedelta(seconds=30)
    max_waiting: int = 10_000


class ProviderTimeouts(Group):
    connect: timedelta = timedelta(seconds=5)
    first_token: timedelta = timedelta(seconds=60)
    idle: timedelta = timedelta(seconds=30)
    total: timedelta = timedelta(seconds=600)


class BreakerSettings(Group):
    """Opens after `failures` in a row, or when `failure_rate` of at least `window_min_calls` calls in `window` failed."""

    failures: int = 5
    probe_after: timedelta = timedelta(seconds=60)
    failure_rate: float = 0.5
    window: timedelta = timedelta(seconds=30)
    window_min_calls: int = 20


class RetrySettings(Group):
    """`attempts` at one target, the first included; with another target left, two are made before moving on."""

    attempts: int = 5
    first_delay: timedelta = timedelta(seconds=1)
    max_delay: timedelta = timedelta(seconds=8)
    budget_ratio: float = 0.2
    budget_per_second: float = 3.0


class ProviderSettings(Group):
    """`simulated` is set by the server where the simulator stands in; a file cannot say it."""

    name: str
    kind: ProviderKindName
    base_url: str | None = None
    api_keys: tuple[SecretReference, ...] = ()
    models: tuple[ModelSettings, ...] = ()
    pool_size: int = 100
    enabled: bool = True
    limits: ProviderLimits = ProviderLimits()
    timeouts: ProviderTimeouts = ProviderTimeouts()
    breaker: BreakerSettings = BreakerSettings()
    retry: RetrySettings = RetrySettings()
    simulated: bool = False


class StrategyName(StrEnum):
    PRIORITY = "PRIORITY"
    LEAST_COST = "LEAST_COST"
    LEAST_LATENCY = "LEAST_LATENCY"
    ROUND_ROBIN = "ROUND_ROBIN"
    RANDOM = "RANDOM"


class UnsupportedName(StrEnum):
    DROP = "drop"
    REFUSE = "refuse"


class RouteSettings(Group):
    """`targets` are `provider/model` in order."""

    name: str
    targets: tuple[str, ...]
    strategy: StrategyName = StrategyName.PRIORITY
    default_max_output_tokens: int = 4096
    unsupported: UnsupportedName = UnsupportedName.DROP


class LimitSettings(Group):
    """What one document, body, socket or key may ask for."""

    document_bytes: int = 64 * 1024
    body_bytes: int = 32 * 1024 * 1024
    bytes_in_flight: int = 256 * 1024 * 1024
    tokens: int = 2000
    depth: int = 12
    fields: int = 500
    aliases: int = 30
    root_fields: int = 20
    directives: int = 20
    directives_per_field: int = 4
    repeated_keys: int = 10
    operations: int = 10
    cost: int = 5000
    execution_timeout: timedelta = timedelta(seconds=600)
    allowance_capacity: int = 100_000
    allowance_per_second: float = 1000.0
    documents_cached: int = 1000
    trusted_documents: Path | None = None
    trusted_only: bool = False
    sockets_per_key: int = 200
    operations_per_socket: int = 100
    connection_init_timeout: timedelta = timedelta(seconds=10)
    send_timeout: timedelta = timedelta(seconds=30)


class CacheSettings(Group):
    enabled: bool = True


class BudgetDefault(Group):
    limit_usd: Decimal
    period: str = "MONTH"
    time_zone: str = "UTC"
    thresholds: tuple[int, ...] = (80, 90, 100)
    enforcement: str = "BLOCK"


class BudgetSettings(Group):
    hold_ttl: timedelta = timedelta(seconds=60)
    per_tenant: BudgetDefault | None = None
    per_agent: BudgetDefault | None = None


class ContentSettings(Group):
    """How long prompts and answers are kept; encrypted at rest when a key is given."""

    store: bool = True
    ttl: timedelta = timedelta(hours=24)
    encryption_key: SecretReference | None = None


class Settings(Group):
    server: ServerSettings = ServerSettings()
    database: DatabaseSettings = DatabaseSettings()
    redis: RedisSettings = RedisSettings()
    providers: tuple[ProviderSettings, ...] = ()
    routes: tuple[RouteSettings, ...] = ()
    limits: LimitSettings = LimitSettings()
    cache: CacheSettings = CacheSettings()
    budgets: BudgetSettings = BudgetSettings()
    content: ContentSettings = ContentSettings()
