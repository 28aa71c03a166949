"""Traces of paid calls, off unless configured. A call is reported once, when it has ended. Its content is never reported."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.domain.errors import SettingsError
from app.settings import TelemetrySettings
from app.telemetry.call_ended import CallListener


@asynccontextmanager
async def open_traces(settings: TelemetrySettings) -> AsyncIterator[CallListener | None]:
    """Yields the listener for calls that ended; None if no endpoint is configured. Spans that are not sent yet are sent at the
    end. Raises SettingsError if the extra is not installed."""
    if settings.otlp_endpoint is None:
        yield None
        return
    try:
        adapter = importlib.import_module("app.telemetry.otlp")
    except ModuleNotFoundError as error:
        raise SettingsError("telemetry.otlp_endpoint", "it needs the extra otel: pip install 'greenlang[otel]'") from error
    traces = adapter.OtlpTraces(settings.otlp_endpoint, settings.sample_ratio)
    try:
        yield traces.record
    finally:
        await asyncio.to_thread(traces.close)
