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
from anthropic.types import RawMessageStreamEvent
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk

from simulator.attempts import Entry
from tests.simulators import RunningSimulator, StepFields

pytestmark = pytest.mark.anyio
CLAUDE, GPT = "claude-haiku-5-5", "gpt-5.4-mini"
FIFTY = "[[simulator tokens=50]]"


async def claude(client: AsyncAnthropic, text: str = FIFTY) -> str:
    message = await client.messages.create(model=CLAUDE, max_tokens=60_000, messages=[{"role": "user", "content": text}])
    return "".join(block.text for block in message.content if block.type == "text")


async def claude_events(client: AsyncAnthropic, events: list[RawMessageStreamEvent]) -> None:
    stream = await client.messages.create(
        model=CLAUDE, max_tokens=60_000, messages=[{"role": "user", "content": FIFTY}], stream=True
    )
    async for event in stream:
        events.append(event)  # noqa: PERF401 -- kept when the stream breaks


async def gpt(client: AsyncOpenAI, text: str = FIFTY, *, model: str = GPT) -> str | None:
    completion = await client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
    return completion.choices[0].message.content


async def gpt_chunks(client: AsyncOpenAI, chunks: list[ChatCompletionChunk]) -> None:
    stream = await client.chat.completions.create(
        model=GPT, messages=[{"role": "user", "content": FIFTY}], stream=True, stream_options={"include_usage": True}
    )
    async for chunk in stream:
        chunks.append(chunk)  # noqa: PERF401 -- kept when the stream breaks


def deltas(events: list[RawMessageStreamEvent]) -> int:
    return sum(event.type == "content_block_delta" for event in events)


def contents(chunks: list[ChatCompletionChunk]) -> int:
    return sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks)


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


class TestMidStream:
    async def test_anthropic_cut(self, anthropic_client: AsyncAnthropic, simulator: RunningSimulator) -> None:
        simulator.post("cut")
        events: list[RawMessageStreamEvent] = []
        with pytest.raises(httpx2.RemoteProtocolError):
            await claude_events(anthropic_client, events)

        assert deltas(events) == 8
        self.was_billed_for(simulator, 8, "aborted")

    async def test_openai_cut(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.post("cut")
        chunks: list[ChatCompletionChunk] = []
        with pytest.raises(openai.APIConnectionError):
            await gpt_chunks(openai_client, chunks)

        assert contents(chunks) == 8
        self.was_billed_for(simulator, 8, "aborted")

    async def test_cut_before_the_first_token(self, anthropic_client: AsyncAnthropic, simulator: RunningSimulator) -> None:
        simulator.post("cut-first")
        events: list[RawMessageStreamEvent] = []
        with pytest.raises(httpx2.RemoteProtocolError):
            await claude_events(anthropic_client, events)

        assert [event.type for event in events] == ["message_start", "content_block_start"]
        self.was_billed_for(simulator, 0, "aborted")

    async def test_truncated_streams_end_without_an_error(
        self, anthropic_client: AsyncAnthropic, openai_client: AsyncOpenAI, simulator: RunningSimulator
    ) -> None:
        simulator.post("truncate", "truncate")
        events: list[RawMessageStreamEvent] = []
        chunks: list[ChatCompletionChunk] = []
        await claude_events(anthropic_client, events)
        await gpt_chunks(openai_client, chunks)

        assert (deltas(events), events[-1].type) == (8, "content_block_delta")
        assert (contents(chunks), chunks[-1].choices[0].finish_reason) == (8, None)
        assert [(entry.output_tokens, entry.usage_sent) for entry in simulator.ended(2)] == [(8, False)] * 2

    async def test_anthropic_stall(self, anthropic_client: AsyncAnthropic, simulator: RunningSimulator) -> None:
        simulator.post("stall")
        events: list[RawMessageStreamEvent] = []
        with pytest.raises(httpx2.ReadTimeout):
            await claude_events(anthropic_client.with_options(timeout=0.2), events)

        assert deltas(events) == 8
        self.was_billed_for(simulator, 8, "disconnected")

    async def test_a_stall_can_end(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.post({"fault": "stall", "after_tokens": 8, "stall_ms": 50})
        chunks: list[ChatCompletionChunk] = []
        await gpt_chunks(openai_client, chunks)

        assert contents(chunks) == 50
        assert chunks[-1].usage is not None

    async def test_malformed_chunk(
        self, anthropic_client: AsyncAnthropic, openai_client: AsyncOpenAI, simulator: RunningSimulator
    ) -> None:
        simulator.post("malformed", "malformed")
        events: list[RawMessageStreamEvent] = []
        chunks: list[ChatCompletionChunk] = []
        with pytest.raises(json.JSONDecodeError):
            await claude_events(anthropic_client, events)
        with pytest.raises(json.JSONDecodeError):
            await gpt_chunks(openai_client, chunks)

        assert deltas(events) == contents(chunks) == 8

    async def test_anthropic_error_event_has_status_200(
        self, anthropic_client: AsyncAnthropic, simulator: RunningSimulator
    ) -> None:
        simulator.post("stream-error")
        events: list[RawMessageStreamEvent] = []
        with pytest.raises(anthropic.APIStatusError) as raised:
            await claude_events(anthropic_client, events)

        assert (raised.value.status_code, raised.value.type) == (200, "overloaded_error")
        assert deltas(events) == 8
        self.was_billed_for(simulator, 8, "aborted")

    async def test_openai_error_object(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.post("stream-error-first")
        chunks: list[ChatCompletionChunk] = []
        with pytest.raises(openai.APIError, match="Overloaded") as raised:
            await gpt_chunks(openai_client, chunks)

        assert (type(raised.value), raised.value.type) == (openai.APIError, "server_error")
        assert contents(chunks) == 0

    async def test_slow_drip_and_late_first_token(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.post({"first_token_delay_ms": 60, "token_delay_ms": 20, "answer": {"tokens": 6}})
        began = time.monotonic()
        chunks: list[ChatCompletionChunk] = []
        await gpt_chunks(openai_client, chunks)

        assert time.monotonic() - began >= 0.060 + 5 * 0.020
        assert contents(chunks) == 6

    async def test_a_client_that_leaves_is_billed_for_what_was_made(
        self, openai_client: AsyncOpenAI, simulator: RunningSimulator
    ) -> None:
        simulator.post({"token_delay_ms": 20})
        stream = await openai_client.chat.completions.create(
            model=GPT, messages=[{"role": "user", "content": FIFTY}], stream=True
        )
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
        await openai_client.close()

        (entry,) = simulator.ended(1)
        assert (entry.state, entry.billed, entry.usage_sent) == ("disconnected", True, False)
        assert 1 <= entry.output_tokens < 50

    @pytest.mark.parametrize("fault", ["no-done", "no-usage", "no-finish-reason"])
    async def test_openai_leaves_out(self, openai_client: AsyncOpenAI, simulator: RunningSimulator, fault: str) -> None:
        simulator.post(fault)
        async with openai_client.chat.completions.with_streaming_response.create(
            model=GPT, messages=[{"role": "user", "content": FIFTY}], stream=True, stream_options={"include_usage": True}
        ) as response:
            text = await response.text()

        assert ("data: [DONE]" in text) == (fault != "no-done")
        assert ('"completion_tokens":50' in text) == (fault != "no-usage")
        assert ('"finish_reason":"stop"' in text) == (fault != "no-finish-reason")
        assert simulator.ended(1)[0].usage_sent == (fault != "no-usage")

    async def test_anthropic_leaves_out_usage_and_reason(
        self, anthropic_client: AsyncAnthropic, simulator: RunningSimulator
    ) -> None:
        simulator.post("no-usage", "no-finish-reason")
        first: list[RawMessageStreamEvent] = []
        second: list[RawMessageStreamEvent] = []
        await claude_events(anthropic_client, first)
        await claude_events(anthropic_client, second)

        assert first[-2].type == "message_delta"
        assert getattr(first[-2], "usage", None) is None
        assert second[-2].type == "message_delta"
        assert second[-2].delta.stop_reason is None

    def was_billed_for(self, simulator: RunningSimulator, tokens: int, state: str) -> None:
        (entry,) = simulator.ended(1)
        assert (entry.state, entry.billed, entry.usage_sent, entry.output_tokens) == (state, True, False, tokens)


class TestStrangeAnswers:
    async def test_content_filter(
        self, anthropic_client: AsyncAnthropic, openai_client: AsyncOpenAI, simulator: RunningSimulator
    ) -> None:
        simulator.post("content-filter", "content-filter")
        message = await anthropic_client.messages.create(model=CLAUDE, max_tokens=50, messages=[{"role": "user", "content": "a"}])
        completion = await openai_client.chat.completions.create(model=GPT, messages=[{"role": "user", "content": "a"}])

        assert message.stop_reason == "refusal"
        assert message.stop_details is not None
        assert completion.choices[0].finish_reason == "content_filter"

    async def test_prompt_filter(
        self, anthropic_client: AsyncAnthropic, openai_client: AsyncOpenAI, simulator: RunningSimulator
    ) -> None:
        simulator.post("prompt-filter", "prompt-filter")
        with pytest.raises(anthropic.BadRequestError, match="content filtering policy"):
            await claude(anthropic_client)
        with pytest.raises(openai.BadRequestError) as refused:
            await gpt(openai_client)

        assert refused.value.code == "content_policy_violation"

    async def test_refusal_has_a_field_of_its_own(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.post("refusal")
        completion = await openai_client.chat.completions.create(model=GPT, messages=[{"role": "user", "content": "a"}])

        assert completion.choices[0].message.content is None
        assert completion.choices[0].message.refusal

    async def test_context_too_long(
        self, anthropic_client: AsyncAnthropic, openai_client: AsyncOpenAI, simulator: RunningSimulator
    ) -> None:
        simulator.post("context-too-long", "context-too-long")
        with pytest.raises(anthropic.BadRequestError, match="prompt is too long: 1000001 tokens > 1000000 maximum"):
            await claude(anthropic_client)
        with pytest.raises(openai.BadRequestError) as refused:
            await gpt(openai_client)

        assert refused.value.code == "context_length_exceeded"

    @pytest.mark.parametrize(("fault", "text"), [("empty", ""), ("nul", "before\x00after"), ("surrogate", "before\ud83dafter")])
    async def test_odd_texts(
        self,
        anthropic_client: AsyncAnthropic,
        openai_client: AsyncOpenAI,
        simulator: RunningSimulator,
        fault: str,
        text: str,
    ) -> None:
        simulator.post(fault, fault, fault)
        chunks: list[ChatCompletionChunk] = []
        assert await claude(anthropic_client) == text
        assert await gpt(openai_client) == text
        await gpt_chunks(openai_client, chunks)

        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text

    async def test_huge(self, anthropic_client: AsyncAnthropic, simulator: RunningSimulator) -> None:
        simulator.post("huge")

        assert len(await claude(anthropic_client, "Everything")) == 4 * 50_000

    async def test_wrong_schema_and_not_json(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.post("wrong-schema", "not-json")
        texts = [
            (
                await openai_client.chat.completions.create(
                    model=GPT,
                    messages=[{"role": "user", "content": "a"}],
                    response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
                )
            )
            .choices[0]
            .message.content
            or ""
            for _ in range(2)
        ]

        assert isinstance(json.loads(texts[0]), list)
        with pytest.raises(json.JSONDecodeError):
            json.loads(texts[1])


class TestScenario:
    async def outcomes(self, client: AsyncOpenAI, count: int, *, model: str = GPT) -> list[int]:
        statuses = []
        for _ in range(count):
            try:
                await gpt(client, model=model)
                statuses.append(200)
            except openai.APIStatusError as error:
                statuses.append(error.status_code)
        return statuses

    async def test_steps_are_used_in_order_and_up(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.post({"fault": "status", "status": 500, "count": 2}, {"fault": "none"}, {"fault": "status", "status": 503})

        assert await self.outcomes(openai_client, 5) == [500, 500, 200, 503, 200]

    async def test_for_ever_is_until_cleared(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.post({"fault": "status", "status": 503, "count": None})
        before = await self.outcomes(openai_client, 3)
        simulator.clear_scenario()

        assert before == [503] * 3
        assert await self.outcomes(openai_client, 1) == [200]

    @pytest.mark.parametrize(
        "other",
        [{"provider": "anthropic"}, {"model": "claude-*"}, {"operation": "embedding"}, {"stream": True}, {"key": "another"}],
    )
    async def test_only_fitting_calls_are_hit(
        self, openai_client: AsyncOpenAI, simulator: RunningSimulator, other: StepFields
    ) -> None:
        simulator.post({"fault": "status", **other})

        assert await self.outcomes(openai_client, 1) == [200]

    async def test_a_share_hits_a_part(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.post({"fault": "status", "status": 500, "count": None, "share": 0.2})

        assert 2 <= (await self.outcomes(openai_client, 50)).count(500) <= 20

    async def test_a_fault_can_pass_by_itself(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.post({"fault": "status", "status": 503, "count": None, "lasts_ms": 150})
        assert await self.outcomes(openai_client, 1) == [503]
        deadline = time.monotonic() + 5
        while await self.outcomes(openai_client, 1) == [503]:
            assert time.monotonic() < deadline

        assert await self.outcomes(openai_client, 1) == [200]

    async def test_a_header_a_marker_or_the_model_names_a_fault(
        self, openai_client: AsyncOpenAI, simulator: RunningSimulator
    ) -> None:
        assert await self.outcomes(openai_client, 1, model=f"{GPT}@status-503") == [503]
        with pytest.raises(openai.InternalServerError):
            await gpt(openai_client.with_options(default_headers={"x-simulator-fault": "overloaded"}))
        with pytest.raises(openai.NotFoundError):
            await gpt(openai_client, "[[simulator fault=status-404]]")

        entries: list[Entry] = simulator.ended(3)
        assert [(entry.model, entry.status) for entry in entries] == [(GPT, 503), (GPT, 529), (GPT, 404)]

    async def test_an_unknown_fault_is_told(self, openai_client: AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="there is no fault `nonsense`"):
            await gpt(openai_client, model=f"{GPT}@nonsense")

    async def test_the_health_call_can_fail_too(self, anthropic_client: AsyncAnthropic, simulator: RunningSimulator) -> None:
        simulator.post({"fault": "status", "status": 503, "operation": "models"})
        with pytest.raises(anthropic.ServiceUnavailableError):
            await anthropic_client.models.list(limit=1)

        assert not simulator.ended(1)[0].billed
