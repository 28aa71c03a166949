"""The configuration: parsed once into nested frozen groups, checked as a whole, and handed to worker processes as JSON."""

from __future__ import annotations

from app.settings.groups import (
    BreakerSettings,
    BudgetDefault,
    BudgetSettings,
    CacheSettings,
    ContentSettings,
    DatabaseSettings,
    LimitSettings,
    ModelSettings,
    PriceSettings,
    ProviderKindName,
    ProviderLimits,
    ProviderSettings,
    ProviderTimeouts,
    RedisSettings,
    RetrySettings,
    RouteSettings,
    ServerSettings,
    Settings,
    StrategyName,
    UnsupportedName,
)

__all__ = [
    "BreakerSettings",
    "BudgetDefault",
    "BudgetSettings",
    "CacheSettings",
    "ContentSettings",
    "DatabaseSettings",
    "LimitSettings",
    "ModelSettings",
    "PriceSettings",
    "ProviderKindName",
    "ProviderLimits",
    "ProviderSettings",
    "ProviderTimeouts",
    "RedisSettings",
    "RetrySettings",
    "RouteSettings",
    "ServerSettings",
    "Settings",
    "StrategyName",
    "UnsupportedName",
]
