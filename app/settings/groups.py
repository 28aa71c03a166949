"""The groups of the configuration. Every key is documented, with its default, in greenlang.example.toml."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.secrets.reference import SecretReference
from app.settings.values import (
    CacheTime,
    Count,
    CountOrNone,
    Delay,
    Duration,
    Flag,
    IndexPrefix,
    ModelName,
    Name,
    Network,
    Part,
    Percent,
    Port,
    Rate,
    Ratio,
    Share,
    Tenant,
    TimeZone,
    Url,
    Usd,
    WebhookUrl,
    listed,
    named,
)


class Group(BaseModel):
    """Errors never repeat the input, because a secret may have been written in the wrong place."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


SecretList: TypeAlias = Annotated[tuple[SecretReference, ...], BeforeValidator(listed)]


class ServerSettings(Group):
    host: str = "127.0.0.1"
    port: Port = 8400
    data_dir: Path = Path(".greenlang")
    workers: Count = 1
    max_in_flight: Count = 2000
    share_per_key: Share = 0.8
    share_per_tenant: Share = 0.9
    share_for_admin: Part = 0.01
    unauthenticated_connections: Count = 10_000
    unauthenticated_connections_per_address: Count = 1000
    retry_after: Duration = timedelta(seconds=1)
    production: Flag = False
    allowed_origins: tuple[str, ...] = ()
    public_url: Url | None = None
    trusted_proxies: Annotated[tuple[Network, ...], BeforeValidator(listed)] = ()
    hsts_include_subdomains: Flag = False
    metrics_port: Port | None = None
    shutdown_grace: Delay = timedelta(seconds=20)
    drain_delay: Delay = timedelta(0)
    stuck_after: Duration = timedelta(seconds=10)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "text"] = "auto"
    access_log: Flag = False


class DatabaseSettings(Group):
    """Without `primary`, the embedded PostgreSQL runs. Without `owner`, `primary` also migrates. `max_staleness` is how far a
    replica that answers reads may be behind. Set `statement_cache = false` for PgBouncer before 1.21. `direct` leads to the
    primary without the pooler."""

    primary: SecretReference | None = None
    owner: SecretReference | None = None
    direct: SecretReference | None = None
    replicas: SecretList = ()
    max_staleness: Duration = timedelta(seconds=10)
    own_write_wait: Delay = timedelta(milliseconds=100)
    pods: Count = 1
    pool_min: CountOrNone = 10
    pool_size: Count = 20
    max_overflow: CountOrNone = 40
    pool_timeout: Duration = timedelta(seconds=5)
    connect_timeout: Duration = timedelta(seconds=2)
    statement_timeout: Duration = timedelta(seconds=30)
    lock_timeout: Duration = timedelta(seconds=10)
    idle_transaction_timeout: Duration = timedelta(seconds=60)
    statement_cache: Flag = True
    slow_statement: Duration = timedelta(milliseconds=500)

    @property
    def pooled(self) -> bool:
        """Whether a pooler stands before the server. It refuses time limits as parameters of a connection."""
        return self.direct is not None or not self.statement_cache


class RedisSettings(Group):
    """Without `url`, the embedded Valkey runs. `tls_ca`: a PEM file of the authorities that sign its certificates."""

    url: SecretReference | None = None
    tls_ca: Path | None = None
    socket_timeout: Duration = timedelta(milliseconds=100)


class ProviderKindName(StrEnum):
    ANTHROPIC = "anthropic"
    OPENAI = "openai"
    OPENAI_COMPATIBLE = "openai-compatible"


class PriceSettings(Group):
    """US dollars per million tokens."""

    input_usd: Usd
    output_usd: Usd
    cache_read_usd: Usd | None = None
    cache_write_usd: Usd | None = None
    cache_write_1h_usd: Usd | None = None


class ModelSettings(Group):
    name: ModelName
    price: PriceSettings | None = None
    context_tokens: Count | None = None
    max_output_tokens: Count | None = None


ModelList: TypeAlias = Annotated[tuple[Annotated[ModelSettings, BeforeValidator(named)], ...], BeforeValidator(listed)]


class ProviderLimits(Group):
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    queue_timeout: Delay = timedelta(seconds=30)
    max_waiting: CountOrNone = 10_000


class ProviderTimeouts(Group):
    connect: Duration = timedelta(seconds=5)
    first_token: Duration = timedelta(seconds=30)
    idle: Duration = timedelta(seconds=30)
    total: Duration = timedelta(seconds=600)


class BreakerSettings(Group):
    """Counts calls, not tries. Opens after `failures` in a row, or if `failure_rate` of at least `window_min_calls` calls in
    `window` failed."""

    failures: Count = 5
    probe_after: Duration = timedelta(seconds=60)
    failure_rate: Share = 0.5
    window: Duration = timedelta(seconds=30)
    window_min_calls: Count = 20


class RetrySettings(Group):
    """`attempts` at one target, including the first. If another target is left, at most two are made before moving on."""

    attempts: Count = 5
    first_delay: Delay = timedelta(seconds=1)
    max_delay: Delay = timedelta(seconds=8)
    budget_ratio: Ratio = 0.2
    budget_per_second: Ratio = 3.0


class ProviderSettings(Group):
    """The server sets `simulated` if the simulator answers. A configuration file cannot set it."""

    name: Name
    kind: ProviderKindName
    base_url: Url | None = None
    api_keys: SecretList = ()
    models: ModelList = ()
    pool_size: Count = 100
    enabled: Flag = True
    allow_private_image_urls: Flag = False
    limits: ProviderLimits = ProviderLimits()
    timeouts: ProviderTimeouts = ProviderTimeouts()
    breaker: BreakerSettings = BreakerSettings()
    retry: RetrySettings = RetrySettings()
    simulated: Flag = False


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

    name: Name
    targets: Annotated[tuple[str, ...], Field(min_length=1)]
    strategy: StrategyName = StrategyName.PRIORITY
    default_max_output_tokens: Count = 4096
    unsupported: UnsupportedName = UnsupportedName.DROP


class LimitSettings(Group):
    """Limits on one document, body, socket or key."""

    document_bytes: Count = 64 * 1024
    body_bytes: Count = 32 * 1024 * 1024
    bytes_in_flight: Count = 256 * 1024 * 1024
    tokens: Count = 2000
    depth: Count = 12
    fields: Count = 500
    aliases: Count = 30
    root_fields: Count = 20
    directives: Count = 20
    directives_per_field: Count = 4
    repeated_keys: Count = 10
    operations: Count = 10
    cost: Count = 5000
    execution_timeout: Duration = timedelta(seconds=600)
    allowance_capacity: Count = 100_000
    allowance_per_second: Rate = 1000.0
    documents_cached: Count = 1000
    trusted_documents: Path | None = None
    trusted_only: Flag = False
    sockets_per_key: Count = 200
    operations_per_socket: Count = 100
    connection_init_timeout: Duration = timedelta(seconds=10)
    send_timeout: Duration = timedelta(seconds=30)
    exports_in_flight: Count = 10
    export_timeout: Duration = timedelta(minutes=10)
    output_tokens: Count = 128_000
    budgets_per_tenant: Count = 100


class MemoryCacheSettings(Group):
    """The tier in the memory of each process."""

    enabled: Flag = True
    max_bytes: Count = 5_242_880
    ttl: CacheTime = timedelta(seconds=60)


class LocalCacheSettings(Group):
    """Without `url`, a second embedded Valkey runs, which holds at most `max_bytes`."""

    enabled: Flag = True
    url: SecretReference | None = None
    tls_ca: Path | None = None
    max_bytes: Count = 104_857_600
    ttl: CacheTime = timedelta(seconds=300)


class SharedCacheSettings(Group):
    """Without `url`, there is no such tier."""

    enabled: Flag = True
    url: SecretReference | None = None
    tls_ca: Path | None = None
    ttl: CacheTime = timedelta(hours=1)


class PostgresCacheSettings(Group):
    """Answers are kept here that save at least `min_saved_usd`, and those whose `ttlSeconds` is longer than the other tiers hold
    them."""

    enabled: Flag = True
    ttl: CacheTime = timedelta(hours=24)
    max_bytes: Count = 1_073_741_824
    min_saved_usd: Usd = Decimal("0.01")


class CacheSettings(Group):
    """Stored answers are returned to callers that ask for the cache. `default_ttl` applies to calls without `ttlSeconds`."""

    enabled: Flag = True
    default_ttl: CacheTime = timedelta(hours=1)
    memory: MemoryCacheSettings = MemoryCacheSettings()
    local: LocalCacheSettings = LocalCacheSettings()
    shared: SharedCacheSettings = SharedCacheSettings()
    postgres: PostgresCacheSettings = PostgresCacheSettings()


class BudgetDefault(Group):
    limit_usd: Usd
    period: Literal["HOUR", "DAY", "WEEK", "MONTH", "TOTAL"] = "MONTH"
    time_zone: TimeZone = "UTC"
    thresholds: tuple[Percent, ...] = (80, 90, 100)
    enforcement: Literal["BLOCK", "ALERT_ONLY"] = "BLOCK"


class BudgetSettings(Group):
    hold_ttl: Duration = timedelta(seconds=60)
    per_tenant: BudgetDefault | None = None
    per_agent: BudgetDefault | None = None


class ContentSettings(Group):
    """How long prompts and answers are kept. They are encrypted at rest with the first of the keys. The other keys open older
    content."""

    store: Flag = True
    ttl: Duration = timedelta(hours=24)
    encryption_keys: SecretList = ()


PGVECTOR_STORE = "pgvector"
"""The name of the store in the service's own database, which needs no configuration."""


class VectorStoreKind(StrEnum):
    PGVECTOR = "pgvector"
    CHROMA = "chroma"
    PINECONE = "pinecone"


class VectorStoreSettings(Group):
    """`timeout` is the longest that one request to the store may take. Without `url`, the embedded Chroma runs. The other keys
    are for Pinecone."""

    name: Name
    kind: VectorStoreKind
    url: SecretReference | None = None
    api_key: SecretReference | None = None
    host: Url = "https://api.pinecone.io"
    index_prefix: IndexPrefix = "greenlang"
    timeout: Duration = timedelta(seconds=10)


class VectorSettings(Group):
    """The store `pgvector`, in the service's own database, is always there. Texts are cut into chunks of at most `chunk_tokens`,
    each of which begins with at most `chunk_overlap` tokens of the one before."""

    default_store: Name = PGVECTOR_STORE
    stores: tuple[VectorStoreSettings, ...] = ()
    chunk_tokens: Annotated[int, Field(strict=True, ge=16)] = 512
    chunk_overlap: CountOrNone = 64


class WebhookSettings(Group):
    """Alerts are sent to `url`, signed with `secret`. Addresses that are not public are refused unless `allow_private` is
    true."""

    url: WebhookUrl
    secret: SecretReference
    allow_private: Flag = False


class VaultAuth(StrEnum):
    KUBERNETES = "kubernetes"
    APPROLE = "approle"
    TOKEN = "token"


class VaultSettings(Group):
    """Secrets of the engine KV, version 2, mounted at `mount`. `kubernetes` needs `role`; `approle` needs `role_id` and
    `secret_id`; `token` needs `token`."""

    address: Url
    auth: VaultAuth = VaultAuth.KUBERNETES
    role: str | None = None
    mount: str = "secret"
    namespace: str | None = None
    ca_file: Path | None = None
    token: SecretReference | None = None
    role_id: SecretReference | None = None
    secret_id: SecretReference | None = None
    timeout: Duration = timedelta(seconds=5)


class AwsSettings(Group):
    """AWS Secrets Manager, with the credentials that AWS's own client finds."""

    region: str
    endpoint: Url | None = None
    timeout: Duration = timedelta(seconds=5)


class SecretSettings(Group):
    """Files, Vault and AWS are looked at every `refresh`."""

    refresh: Duration = timedelta(seconds=30)
    vault: VaultSettings | None = None
    aws: AwsSettings | None = None


class TelemetrySettings(Group):
    """Without `otlp_endpoint` there are no traces."""

    otlp_endpoint: Url | None = None
    sample_ratio: Share = 1.0
    metrics_tenants: Annotated[tuple[Tenant, ...], BeforeValidator(listed), Field(max_length=100)] = ()


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
    vectors: VectorSettings = VectorSettings()
    webhooks: tuple[WebhookSettings, ...] = ()
    secrets: SecretSettings = SecretSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
