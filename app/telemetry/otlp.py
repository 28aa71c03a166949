"""Ended calls as OpenTelemetry spans, named by its GenAI conventions: one for the call, and below it one for each attempt.

Only the call's span has tokens, because a sum over spans must not count them twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

from app.domain.attempts import Attempt, AttemptOutcome
from app.domain.usage import Operation, TokenUsage
from app.telemetry.call_ended import CallEnded

_OPERATIONS = {Operation.COMPLETION: "chat", Operation.ANSWER: "chat", Operation.EMBEDDING: "embeddings"}
_EXPORT_SECONDS = 5
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Attributes = dict[str, str | int]


class OtlpTraces:
    """Up to 2,048 spans wait in memory. A separate thread sends them. If a collector is away, only spans are lost."""

    def __init__(self, endpoint: str, sample_ratio: float) -> None:
        """`endpoint` is the collector's base address. `/v1/traces` is added to it."""
        self._provider = TracerProvider(
            sampler=TraceIdRatioBased(sample_ratio),
            resource=Resource.create({"service.name": "greenlang"}),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces", timeout=_EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("greenlang")

    def record(self, ended: CallEnded) -> None:
        operation = _OPERATIONS.get(ended.operation, ended.operation.value.lower())
        answered = next((each for each in ended.attempts if each.outcome is AttemptOutcome.SUCCEEDED), None)
        span = self._tracer.start_span(
            f"{operation} {ended.requested_model or ended.route}",
            kind=SpanKind.SERVER,
            start_time=_nanoseconds(ended.started_at),
            attributes=_known(_of_call(ended, operation, answered)),
        )
        if span.is_recording():
            below = set_span_in_context(span)
            for attempt in ended.attempts:
                child = self._tracer.start_span(
                    f"{operation} {attempt.model}",
                    context=below,
                    kind=SpanKind.CLIENT,
                    start_time=_nanoseconds(attempt.started_at),
                    attributes=_known(_of_attempt(attempt, operation)),
                )
                if attempt.outcome is not AttemptOutcome.SUCCEEDED:
                    child.set_status(Status(StatusCode.ERROR))
                child.end(_nanoseconds(attempt.started_at, attempt.latency_ms))
            if answered is None:
                span.set_status(Status(StatusCode.ERROR))
        span.end(_nanoseconds(ended.started_at, ended.latency_ms))

    def close(self) -> None:
        self._provider.shutdown()


def _of_call(ended: CallEnded, operation: str, answered: Attempt | None) -> Mapping[str, str | int | None]:
    usage = ended.usage or TokenUsage()
    problem = None if ended.problem is None else ended.problem.value
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.request.model": ended.requested_model or ended.route,
        "gen_ai.provider.name": None if answered is None else answered.provider,
        "gen_ai.response.model": None if answered is None else answered.model,
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_input_tokens,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        "error.type": None if answered is not None else problem or ended.status,
        "greenlang.route": ended.route,
        "greenlang.tenant": ended.tenant,
        "greenlang.agent": ended.agent,
        "greenlang.cost_usd": None if ended.cost_usd is None else format(ended.cost_usd, "f"),
    }


def _of_attempt(attempt: Attempt, operation: str) -> Mapping[str, str | int | None]:
    failed = attempt.outcome is not AttemptOutcome.SUCCEEDED
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": attempt.provider,
        "gen_ai.request.model": attempt.model,
        "http.response.status_code": attempt.status_code,
        "error.type": (attempt.outcome if attempt.reason is None else attempt.reason).value if failed else None,
        "greenlang.outcome": attempt.outcome.value,
        "greenlang.provider_request_id": attempt.provider_request_id,
    }


def _known(attributes: Mapping[str, str | int | None]) -> Attributes:
    return {name: value for name, value in attributes.items() if value is not None}


def _nanoseconds(at: datetime, later_ms: float = 0.0) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1) * 1000 + round(later_ms * 1_000_000)
