"""Every fault as the real SDKs tell it, and as the simulator's log has it."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import anthropic
import httpx2
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tests.simulator.calls import GPT, claude, gpt
from tests.simulators import RunningSimulator

pytestmark = pytest.mark.anyio


class TestStatus:
    @pytest.mark.parametrize(
        ("status", "error", "kind"),
        [
            (400, anthropic.BadRequestError, "invalid_request_error"),
            (401, anthropic.AuthenticationError, "authentication_error"),
            (402, anthropic.PaymentRequiredError, "billing_error"),
            (403, anthropic.PermissionDeniedError, "permission_error"),
            (404, anthropic.NotFoundError, "not_found_error"),
            (408, anthropic.RequestTimeoutError, "timeout_error"),
            (409, anthropic.ConflictError, "conflict_error"),
            (413, anthropic.ContentTooLargeError, "request_too_large"),
            (422, anthropic.UnprocessableEntityError, "invalid_request_error"),
            (429, anthropic.RateLimitError, "rate_limit_error"),
            (500, anthropic.InternalServerError, "api_error"),
            (503, anthropic.ServiceUnavailableError, "api_error"),
            (504, anthropic.GatewayTimeoutError, "timeout_error"),
            (529, anthropic.OverloadedError, "overloaded_error"),
        ],
    )
    async def test_anthropic(
        self,
        anthropic_client: AsyncAnthropic,
        simulator: RunningSimulator,
        status: int,
        error: type[anthropic.APIStatusError],
        kind: str,
    ) -> None:
        simulator.post({"fault": "status", "status": status})
        with pytest.raises(error) as raised:
            await claude(anthropic_client)

        assert (raised.value.status_code, raised.value.type) == (status, kind)
        (entry,) = simulator.ended(1)
        assert (entry.status, entry.billed, entry.fault, entry.request_id) == (status, False, "status", raised.value.request_id)

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (400, openai.BadRequestError),
            (401, openai.AuthenticationError),
            (402, openai.APIStatusError),
            (403, openai.PermissionDeniedError),
            (404, openai.NotFoundError),
            (408, openai.APIStatusError),
            (409, openai.ConflictError),
            (413, openai.APIStatusError),
            (422, openai.UnprocessableEntityError),
            (429, openai.RateLimitError),
            (500, openai.InternalServerError),
            (503, openai.InternalServerError),
        ],
    )
    async def test_openai(
        self, openai_client: AsyncOpenAI, simulator: RunningSimulator, status: int, error: type[openai.APIStatusError]
    ) -> None:
        simulator.post({"fault": "status", "status": status})
        with pytest.raises(error) as raised:
            await gpt(openai_client)

        assert raised.value.status_code == status
        assert raised.value.type is not None
        assert simulator.ended(1)[0].request_id == raised.value.request_id

    async def test_retry_after_comes_in_three_forms(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.post("rate-limited", "rate-limited-ms", "rate-limited-date", "rate-limited-bare")
        headers: list[httpx2.Headers] = []
        for _ in range(4):
            with pytest.raises(openai.RateLimitError) as limited:
                await gpt(openai_client)
            headers.append(limited.value.response.headers)

        assert headers[0]["retry-after"] == "1"
        assert headers[1]["retry-after-ms"] == "250"
        assert -1 < (parsedate_to_datetime(headers[2]["retry-after"]) - datetime.now(UTC)).total_seconds() <= 2
        assert "retry-after" not in headers[3]

    async def test_body_and_headers_can_be_anything(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.post(
            {"fault": "status", "status": 502, "body": "<html>Bad gateway</html>", "headers": {"Content-Type": "text/html"}}
        )
        with pytest.raises(openai.InternalServerError) as raised:
            await gpt(openai_client)

        assert raised.value.response.headers.get_list("content-type") == ["text/html"]
        assert raised.value.response.text == "<html>Bad gateway</html>"


class TestBeforeTheHeaders:
    async def test_reset_is_a_connection_error(
        self, anthropic_client: AsyncAnthropic, openai_client: AsyncOpenAI, simulator: RunningSimulator
    ) -> None:
        simulator.post("reset", "reset")
        with pytest.raises(anthropic.APIConnectionError):
            await claude(anthropic_client)
        with pytest.raises(openai.APIConnectionError):
            await gpt(openai_client)

        assert [(entry.state, entry.billed, entry.status) for entry in simulator.ended(2)] == [("aborted", False, None)] * 2

    async def test_disconnect_can_be_billed(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.post("disconnect-billed")
        with pytest.raises(openai.APIConnectionError):
            await gpt(openai_client)

        (entry,) = simulator.ended(1)
        assert (entry.state, entry.billed, entry.usage_sent) == ("aborted", True, False)
        assert entry.usage is not None
        assert entry.usage["completion_tokens"] == 50

    async def test_a_silent_provider_is_seen_to_lose_its_client(
        self, openai_client: AsyncOpenAI, simulator: RunningSimulator
    ) -> None:
        simulator.post("silent")
        with pytest.raises(openai.APITimeoutError):
            await openai_client.with_options(timeout=0.2).chat.completions.create(
                model=GPT, messages=[{"role": "user", "content": "a"}]
            )

        (entry,) = simulator.ended(1)
        assert (entry.state, entry.billed, entry.status) == ("disconnected", False, None)

    async def test_an_open_attempt_is_in_the_log(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.post("silent")
        waiting = asyncio.ensure_future(gpt(openai_client))
        entries = await asyncio.to_thread(simulator.seen, 1)
        waiting.cancel()
        await asyncio.wait([waiting])

        assert [entry.state for entry in entries] == ["open"]
        assert simulator.ended(1)[0].state == "disconnected"

    async def test_headers_wait(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.post({"headers_delay_ms": 120})
        began = time.monotonic()

        assert await gpt(openai_client)
        assert time.monotonic() - began >= 0.12
        assert simulator.ended(1)[0].fault == "delay"


class TestBrokenBody:
    async def test_malformed(
        self, anthropic_client: AsyncAnthropic, openai_client: AsyncOpenAI, simulator: RunningSimulator
    ) -> None:
        simulator.post("malformed", "malformed")
        with pytest.raises(json.JSONDecodeError):
            await claude(anthropic_client)
        with pytest.raises(json.JSONDecodeError):
            await gpt(openai_client)

        assert [(entry.billed, entry.usage_sent) for entry in simulator.ended(2)] == [(True, False)] * 2

    async def test_cut(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.post("cut")
        with pytest.raises(openai.APIConnectionError):
            await gpt(openai_client)

        assert [(entry.state, entry.billed) for entry in simulator.ended(1)] == [("aborted", True)]

    async def test_stall(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.post("stall")
        with pytest.raises(openai.APITimeoutError):
            await openai_client.with_options(timeout=0.2).chat.completions.create(
                model=GPT, messages=[{"role": "user", "content": "a"}]
            )

        assert [(entry.state, entry.billed) for entry in simulator.ended(1)] == [("disconnected", True)]

    async def test_without_usage_and_finish_reason(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.post("no-usage", "no-finish-reason")
        first, second = [
            await openai_client.chat.completions.create(model=GPT, messages=[{"role": "user", "content": "a"}]) for _ in range(2)
        ]

        assert first.usage is None
        assert second.usage is not None
        reason: str | None = second.choices[0].finish_reason
        assert reason is None
        assert [entry.usage_sent for entry in simulator.ended(2)] == [False, True]
