"""What a collector is sent, seen by one that speaks the real protocol."""

from __future__ import annotations

import asyncio
import gzip
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from app.access.principal import Scope
from app.costs.estimate import Estimator
from app.costs.prices import PriceBook
from app.domain.errors import Refused, SettingsError
from app.gateway.embeddings import EmbeddingsRequest
from app.runtime.clock import SystemClock
from app.services import Services, build_services
from app.settings import TelemetrySettings
from app.telemetry.traces import open_traces
from tests.app.access.principals import principal
from tests.app.gateway.test_gateway import EMBEDDER, with_embedder
from tests.services import ANTHROPIC, Stores, asked
from tests.simulators import RunningSimulator

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

ACME = principal(Scope.COMPLETIONS, agent="research")
Traced = Callable[..., AbstractAsyncContextManager[Services]]
SECRET = "the word that must not be reported"


class Collector(ThreadingHTTPServer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[bytes] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def spans(self) -> list[Span]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span
            for request in requests
            for group in request.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/traces"
        self.server.bodies.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def attributes(span: Span) -> dict[str, object]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value") for each in span.attributes}


def milliseconds(span: Span) -> float:
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6


@pytest.fixture
def traced(stores: Stores, simulator: RunningSimulator, estimator: Estimator, collector: Collector) -> Traced:
    """The service with a collector; what it reported has arrived once it is closed."""
    settings = with_embedder(stores.settings(simulator))

    def open_traced(sample_ratio: float = 1.0) -> AbstractAsyncContextManager[Services]:
        telemetry = TelemetrySettings(otlp_endpoint=collector.address, sample_ratio=sample_ratio)
        reported = settings.model_copy(update={"telemetry": telemetry})
        return build_services(reported, SystemClock(), estimator, PriceBook(reported))

    return open_traced


class TestACall:
    async def test_is_one_span_with_one_below_it_for_each_attempt(
        self, traced: Traced, simulator: RunningSimulator, collector: Collector
    ) -> None:
        simulator.post({"operation": "completion", "fault": "status", "status": 503, "provider": "anthropic", "count": None})
        async with traced() as services:
            completion = await services.gateway.complete(asked(SECRET, model=None), ACME)
        call, *attempts = sorted(collector.spans, key=lambda span: (span.parent_span_id, span.start_time_unix_nano))
        assert completion.usage is not None
        assert (call.name, call.kind, call.status.code) == ("chat default", Span.SPAN_KIND_SERVER, Status.STATUS_CODE_UNSET)
        assert attributes(call) == {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "default",
            "gen_ai.provider.name": "openai",
            "gen_ai.response.model": "gpt-5.4-mini",
            "gen_ai.usage.input_tokens": completion.usage.input_tokens,
            "gen_ai.usage.output_tokens": completion.usage.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": 0,
            "gen_ai.usage.cache_creation.input_tokens": 0,
            "gen_ai.usage.reasoning.output_tokens": completion.usage.reasoning_tokens,
            "greenlang.route": "default",
            "greenlang.tenant": "acme",
            "greenlang.agent": "research",
            "greenlang.cost_usd": format(completion.cost_usd or 0, "f"),
        }
        assert {span.parent_span_id for span in attempts} == {call.span_id}
        assert [attributes(span)["greenlang.outcome"] for span in attempts] == [
            attempt.outcome.value for attempt in completion.attempts
        ]
        first = attributes(attempts[0])
        assert (first["gen_ai.provider.name"], first["http.response.status_code"], first["error.type"]) == (
            "anthropic",
            503,
            "PROVIDER_ERROR",
        )
        assert [span.status.code for span in attempts].count(Status.STATUS_CODE_ERROR) == len(attempts) - 1
        assert "error.type" not in attributes(attempts[-1])

    async def test_lasts_as_long_as_it_did(self, traced: Traced, simulator: RunningSimulator, collector: Collector) -> None:
        simulator.post({"operation": "completion", "headers_delay_ms": 300})
        async with traced() as services:
            completion = await services.gateway.complete(asked(), ACME)
        call, attempt = sorted(collector.spans, key=lambda span: span.parent_span_id)
        assert milliseconds(attempt) == pytest.approx(completion.attempts[0].latency_ms, abs=0.01)
        assert milliseconds(call) >= milliseconds(attempt) >= 300
        assert call.start_time_unix_nano <= attempt.start_time_unix_nano

    async def test_never_reports_what_was_said(self, traced: Traced, collector: Collector) -> None:
        async with traced() as services:
            completion = await services.gateway.complete(asked(SECRET), ACME)
        sent = b"".join(collector.bodies)
        assert completion.text
        assert SECRET.encode() not in sent
        assert completion.text.encode() not in sent

    async def test_that_is_streamed_is_reported_too(self, traced: Traced, collector: Collector) -> None:
        async with traced() as services, aclosing(services.gateway.stream(asked(), ACME)) as events:
            assert [event async for event in events]
        assert sorted(span.name for span in collector.spans) == [f"chat {ANTHROPIC}", "chat claude-haiku-5-5"]

    async def test_for_vectors_is_reported_too(self, traced: Traced, collector: Collector) -> None:
        async with traced() as services:
            made = await services.gateway.embed(EmbeddingsRequest((SECRET,), EMBEDDER), ACME)
        call = attributes(min(collector.spans, key=lambda span: span.parent_span_id))
        assert (call["gen_ai.operation.name"], call["gen_ai.usage.input_tokens"]) == ("embeddings", made.usage.input_tokens)

    async def test_that_failed_says_why(self, traced: Traced, simulator: RunningSimulator, collector: Collector) -> None:
        simulator.post({"operation": "completion", "fault": "status", "status": 400, "count": None})
        async with traced() as services:
            with pytest.raises(Refused):
                await services.gateway.complete(asked(), ACME)
        call = min(collector.spans, key=lambda span: span.parent_span_id)
        assert (call.status.code, attributes(call)["error.type"]) == (Status.STATUS_CODE_ERROR, "PROVIDER_ERROR")
        assert "gen_ai.response.model" not in attributes(call)

    async def test_may_be_left_out_by_chance(self, traced: Traced, collector: Collector) -> None:
        async with traced(1e-12) as services:
            await services.gateway.complete(asked(), ACME)
        assert collector.spans == []


class TestACollectorThatIsAway:
    async def test_costs_nothing_but_the_spans(self, traced: Traced, collector: Collector) -> None:
        collector.server_close()
        async with asyncio.timeout(20), traced() as services:
            completion = await services.gateway.complete(asked(), ACME)
        assert completion.text


class TestWithoutAnEndpoint:
    async def test_nothing_is_reported(self) -> None:
        async with open_traces(TelemetrySettings()) as on_end:
            assert on_end is None

    async def test_the_adapter_is_not_loaded(self) -> None:
        """In a process of its own: here other tests have loaded it."""
        code = "import sys, app.services; print('app.telemetry.otlp' in sys.modules)"
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        assert (process.returncode, out.decode().strip()) == (0, "False")

    async def test_with_one_and_without_the_extra_the_start_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
        monkeypatch.delitem(sys.modules, "app.telemetry.otlp", raising=False)
        with pytest.raises(SettingsError, match=r"telemetry\.otlp_endpoint: it needs the extra otel"):
            async with open_traces(TelemetrySettings(otlp_endpoint="http://127.0.0.1:4318")):
                pass
