"""Traces of paid calls, off unless configured. A call is told about once, when it has ended; nothing is measured on its way, and
nothing of its content is ever told."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TypeAlias

from app.attempts import Attempt
from app.errors import SettingsError
from app.problems import ProblemCode
from app.settings import TelemetrySettings
from app.usage import Operation, TokenUsage


@dataclass(frozen=True, slots=True)
class CallEnded:
    """`status` is a CompletionStatus's value; `problem` says why there is no answer."""

    operation: Operation
    requested_model: str | None
    route: str | None
    tenant: str
    agent: str | None
    status: str
    problem: ProblemCode | None
    started_at: datetime
    latency_ms: float
    attempts: tuple[Attempt, ...]
    usage: TokenUsage | None
    cost_usd: Decimal | None


Tell: TypeAlias = Callable[[CallEnded], None]


@asynccontextmanager
async def open_traces(settings: TelemetrySettings) -> AsyncIterator[Tell | None]:
    """What is to be told of every call that ended; None where no endpoint is configured. What is told and not sent yet goes out
    when it is closed. Raises SettingsError where the extra is not installed."""
    if settings.otlp_endpoint is None:
        yield None
        return
    try:
        adapter = importlib.import_module("app.traces_otlp")
    except ModuleNotFoundError as error:
        raise SettingsError("telemetry.otlp_endpoint", "it needs the extra otel: pip install 'greenlang[otel]'") from error
    traces = adapter.OtlpTraces(settings.otlp_endpoint, settings.sample_ratio)
    try:
        yield traces.tell
    finally:
        await asyncio.to_thread(traces.close)
