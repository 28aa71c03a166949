"""The configuration: parsed once into nested frozen groups, checked as a whole, and handed to worker processes as JSON."""

from __future__ import annotations

from app.settings.defaults import (
    DEFAULT_ROUTE,
    SIMULATOR_KEY,
    needs_simulator,
    simulated_providers,
    with_simulator,
)
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
from app.settings.load import load_settings

__all__ = [
    "DEFAULT_ROUTE",
    "SIMULATOR_KEY",
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
    "load_settings",
    "needs_simulator",
    "simulated_providers",
    "with_simulator",
]
