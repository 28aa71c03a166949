"""Every fault as the real SDKs tell it, and as the simulator's log has it."""

from __future__ import annotations

import json
import time

import anthropic
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk

from simulator.attempts import Entry
from tests.simulator.calls import CLAUDE, GPT, claude, gpt, gpt_chunks
from tests.simulators import RunningSimulator, StepFields

pytestmark = pytest.mark.anyio


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

    async def test_an_unknown_fault_is_reported(self, openai_client: AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="there is no fault `nonsense`"):
            await gpt(openai_client, model=f"{GPT}@nonsense")

    async def test_the_health_call_can_fail_too(self, anthropic_client: AsyncAnthropic, simulator: RunningSimulator) -> None:
        simulator.post({"fault": "status", "status": 503, "operation": "models"})
        with pytest.raises(anthropic.ServiceUnavailableError):
            await anthropic_client.models.list(limit=1)

        assert not simulator.ended(1)[0].billed
