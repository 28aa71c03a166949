"""OpenAI's own SDK against a running server with the simulator, over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import (
    ChatCompletionChunk,
    ChatCompletionMessageFunctionToolCall,
    ChatCompletionMessageParam,
    ChatCompletionToolParam,
)
from pydantic import BaseModel

from tests.servers import Client, RunningServer, start_server

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.timeout(120)]

GPT, CLAUDE, FAULTY = "openai/gpt-6-sol", "anthropic/claude-sonnet-5-5", "openai/gpt-5.4-mini"
HELLO: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with start_server(tmp_path_factory.mktemp("doors") / "data") as server:
        yield server


@pytest.fixture
async def client(server: RunningServer) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{server.address}/v1", api_key=server.key) as client:
        yield client


def asked(server: RunningServer) -> int:
    return len(server.simulator_log)


class TestChat:
    @pytest.mark.parametrize("model", [GPT, CLAUDE, "gpt-6-sol", "default"])
    async def test_is_answered_by_any_model_and_says_what_it_cost(self, client: AsyncOpenAI, model: str) -> None:
        raw = await client.chat.completions.with_raw_response.create(model=model, messages=HELLO, max_tokens=50)
        found = raw.parse()
        assert found.choices[0].message.content
        assert found.choices[0].finish_reason in {"stop", "length"}
        assert found.usage is not None
        assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens > 0
        assert raw.headers["x-greenlang-completion-id"] == found.id
        assert raw.headers["x-greenlang-provider"] in {"openai", "anthropic"}
        assert Decimal(raw.headers["x-greenlang-cost-usd"]) > 0

    async def test_the_plain_client_sends_the_key_in_either_header(self, server: RunningServer) -> None:
        def ask() -> str | None:
            with OpenAI(base_url=f"{server.address}/v1", api_key=str(server.key)) as client:
                return client.chat.completions.create(model=GPT, messages=HELLO).choices[0].message.content

        assert await asyncio.to_thread(ask)
        async with aiohttp.ClientSession() as session:
            body = {"model": GPT, "messages": [{"role": "user", "content": "Hello"}]}
            url = f"{server.address}/v1/chat/completions"
            async with session.post(url, json=body, headers={"x-api-key": str(server.key)}) as response:
                assert response.status == 200

    @pytest.mark.parametrize("model", [GPT, CLAUDE])
    async def test_a_stream_has_the_same_text_and_usage_at_its_end(self, client: AsyncOpenAI, model: str) -> None:
        text, usage, reasons = "", None, []
        stream = await client.chat.completions.create(
            model=model, messages=HELLO, stream=True, stream_options={"include_usage": True}, max_completion_tokens=60
        )
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reasons += [choice.finish_reason] if choice.finish_reason else []
        assert text
        assert len(reasons) == 1
        assert usage is not None
        assert usage.completion_tokens > 0

    @pytest.mark.parametrize("model", [GPT, CLAUDE])
    async def test_a_tool_loop_goes_on_with_the_tools_answer(self, client: AsyncOpenAI, model: str) -> None:
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the weather in Oslo?"}]
        first = await client.chat.completions.create(model=model, messages=messages, tools=[WEATHER], tool_choice="required")
        calls = first.choices[0].message.tool_calls
        assert calls is not None
        (call,) = calls
        assert isinstance(call, ChatCompletionMessageFunctionToolCall)
        assert (call.function.name, first.choices[0].finish_reason) == ("weather", "tool_calls")
        json.loads(call.function.arguments)
        messages.append(first.choices[0].message.model_dump(exclude_none=True))  # type: ignore[arg-type]  # as examples of the SDK do
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "5 degrees"})
        second = await client.chat.completions.create(model=model, messages=messages, tools=[WEATHER], tool_choice="none")
        assert second.choices[0].message.content

    async def test_the_streaming_helper_puts_tool_calls_together(self, client: AsyncOpenAI) -> None:
        async with client.chat.completions.stream(
            model=CLAUDE, messages=[{"role": "user", "content": "Weather?"}], tools=[WEATHER], tool_choice="required"
        ) as stream:
            final = await stream.get_final_completion()
        calls = final.choices[0].message.tool_calls
        assert calls is not None
        (call,) = calls
        assert call.function.name == "weather"
        json.loads(call.function.arguments)

    async def test_a_structured_answer_fits_its_class(self, client: AsyncOpenAI) -> None:
        class Invoice(BaseModel):
            total: float
            currency: str

        found = await client.chat.completions.parse(model=GPT, messages=HELLO, response_format=Invoice)
        assert isinstance(found.choices[0].message.parsed, Invoice)

    async def test_an_image_is_passed_on(self, client: AsyncOpenAI) -> None:
        parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
        messages = [{"role": "user", "content": parts}]
        found = await client.chat.completions.create(model=CLAUDE, messages=messages)  # type: ignore[arg-type]  # plain JSON
        assert found.choices[0].message.content

    async def test_fields_of_the_api_go_to_its_own_kind_and_are_named_or_refused_for_another(self, client: AsyncOpenAI) -> None:
        own = await client.chat.completions.create(model=GPT, messages=HELLO, user="someone", n=1, verbosity="low")
        assert own.choices[0].message.content
        raw = await client.chat.completions.with_raw_response.create(model=CLAUDE, messages=HELLO, user="someone", logprobs=False)
        assert "user was left out" in raw.headers["x-greenlang-notes"]
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model=CLAUDE, messages=HELLO, verbosity="low")
        assert refused.value.param == "verbosity"

    async def test_costs_are_those_of_the_agent_in_the_header(self, client: AsyncOpenAI, server: RunningServer) -> None:
        headers = {"x-greenlang-agent": "door", "x-greenlang-label-team": "search", "idempotency-key": "once"}
        first = await client.chat.completions.create(model=GPT, messages=HELLO, extra_headers=headers)
        before = asked(server)
        again = await client.chat.completions.create(model=GPT, messages=HELLO, extra_headers=headers)
        assert (first.id, asked(server)) == (again.id, before)

    async def test_a_repeat_from_the_cache_says_its_tier(self, client: AsyncOpenAI) -> None:
        headers = {"x-greenlang-cache": "use", "x-greenlang-cache-ttl": "60"}
        create = client.chat.completions.with_raw_response.create
        await create(model=GPT, messages=HELLO, extra_headers=headers)
        for _ in range(100):
            raw = await create(model=GPT, messages=HELLO, extra_headers=headers)
            if "x-greenlang-cache" in raw.headers:
                break
            await asyncio.sleep(0.1)
        assert raw.headers["x-greenlang-cache"] == "memory"
        assert raw.headers["x-greenlang-cost-usd"] == "0"


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "nobody", "content": "x"}]}, "messages[0]"),
            ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "messages[0]"),
            ({"temperature": 3}, "temperature"),
            ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
            ({"n": 2}, "n"),
            ({"stop": [1]}, "stop"),
            ({"response_format": {"type": "xml"}}, "response_format"),
            ({"tool_choice": "required"}, "tool_choice"),
            ({"tools": [{"type": "custom"}]}, "tools[0]"),
            ({"store": True}, "store"),
            ({"reasoning_effort": "endless"}, "reasoning_effort"),
        ],
    )
    async def test_bad_input_is_a_bad_request_with_its_field_and_nothing_is_sent(
        self, client: AsyncOpenAI, server: RunningServer, fields: dict[str, object], param: str
    ) -> None:
        before = asked(server)
        with pytest.raises(openai.BadRequestError) as refused:
            await client.post("/chat/completions", body={"model": GPT, "messages": HELLO} | fields, cast_to=object)
        assert refused.value.param == param
        assert asked(server) == before

    async def test_each_refusal_raises_the_class_of_the_sdk(self, client: AsyncOpenAI, server: RunningServer) -> None:
        with pytest.raises(openai.NotFoundError) as missing:
            await client.chat.completions.create(model="openai/nothing", messages=HELLO)
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="sk-wrong").chat.completions.create(model=GPT, messages=HELLO)
        with pytest.raises(openai.NotFoundError, match="POST /v1/chat/completions"):
            await client.post("/audio/speech", body={}, cast_to=object)
        async with aiohttp.ClientSession() as session:
            headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
            for body in (b"{", b"[]", b"null", b"\xff"):
                async with session.post(f"{server.address}/v1/chat/completions", data=body, headers=headers) as response:
                    assert response.status == 400
                    assert (await response.json())["error"]["type"] == "invalid_request_error"

    async def test_a_spent_budget_is_402_and_is_not_tried_again(self, client: AsyncOpenAI, server: RunningServer) -> None:
        limit = 'name: "poor", scope: {agent: "poor"}, limitUsd: "0.000001", enforcement: BLOCK'
        make = f"mutation {{ budgetCreate(input: {{{limit}}}) {{ __typename }} }}"
        async with aiohttp.ClientSession() as session:
            await Client(session, server, str(server.key)).execute(make)
        before = asked(server)
        for streamed in (False, True):
            with pytest.raises(openai.APIStatusError) as refused:
                await client.chat.completions.create(
                    model=GPT, messages=HELLO, stream=streamed, extra_headers={"x-greenlang-agent": "poor"}
                )
            assert (refused.value.status_code, refused.value.code) == (402, "budget_exceeded")
            assert refused.value.response.headers["x-should-retry"] == "false"
            assert refused.value.body["budget"] == "poor"  # type: ignore[index]  # the error object
        assert asked(server) == before


class TestEmbeddings:
    async def test_texts_and_tokens_give_vectors_in_either_encoding(self, client: AsyncOpenAI) -> None:
        model = "openai/text-embedding-3-small"
        texts = await client.embeddings.create(model=model, input=["Hello wörld, how are you?", "another"])
        floats = await client.embeddings.create(model=model, input=["Hello wörld, how are you?"], encoding_format="float")
        tokens = await client.embeddings.create(model=model, input=[[9906, 289, 9603, 509, 11, 1268, 527, 499, 30]])
        assert len(texts.data) == 2
        assert texts.data[0].embedding == pytest.approx(floats.data[0].embedding, abs=1e-6)
        assert texts.data[0].embedding == tokens.data[0].embedding
        assert texts.usage.prompt_tokens > 0

    @pytest.mark.parametrize("tokens", [[[10**9]], [[-1]], [[100_256]], [[True]], []])
    async def test_tokens_that_do_not_exist_are_refused(self, client: AsyncOpenAI, tokens: object) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.post("/embeddings", body={"model": "openai/text-embedding-3-small", "input": tokens}, cast_to=object)
        assert refused.value.param == "input"


class TestModels:
    async def test_are_listed_and_found_by_their_name(self, client: AsyncOpenAI) -> None:
        names = [model.id async for model in client.models.list()]
        assert {"default", GPT, CLAUDE} <= set(names)
        assert (await client.models.retrieve(GPT)).owned_by == "openai"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("openai/nothing")


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "status"), [("status-500", 502), ("silent", 504), ("context-too-long", 400), ("malformed", 502)]
    )
    async def test_before_anything_is_shown_is_an_answer_with_its_status_and_is_not_tried_again(
        self, client: AsyncOpenAI, server: RunningServer, fault: str, status: int
    ) -> None:
        for streamed in (False, True):
            before = asked(server)
            with pytest.raises(openai.APIStatusError) as failed:
                await client.chat.completions.create(
                    model=FAULTY,
                    messages=[{"role": "user", "content": f"[[simulator fault={fault}]]"}],
                    stream=streamed,
                    extra_headers={"x-greenlang-timeout-ms": "3000"},
                )
            assert failed.value.status_code == status
            assert isinstance(failed.value.body, dict)
            tried = failed.value.body.get("attempts", FAULTY).count(FAULTY)
            assert asked(server) - before == tried

    async def test_in_the_middle_of_a_stream_is_an_error_and_never_an_end(self, client: AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(
            model=GPT, messages=[{"role": "user", "content": "[[simulator tokens=60 fault=cut]]"}], stream=True
        )
        chunks: list[ChatCompletionChunk] = []

        async def read() -> None:
            async for chunk in stream:
                chunks.append(chunk)  # noqa: PERF401 (a comprehension would lose them)

        with pytest.raises(openai.APIError) as failed:
            await read()
        assert failed.value.code == "provider_error"
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert all(chunk.choices[0].finish_reason is None for chunk in chunks)

    async def test_a_client_that_leaves_cancels_the_call_and_pays_for_what_was_made(
        self, client: AsyncOpenAI, server: RunningServer
    ) -> None:
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "[[simulator tokens=40 fault=stall]]"}]
        stream = await client.chat.completions.create(
            model=GPT, messages=messages, stream=True, extra_headers={"x-greenlang-agent": "leaver"}
        )
        async for _ in stream:
            break
        await stream.close()
        query = """{ usageRecords(first: 1, filter: {agents: ["leaver"], period: {from: "2026-01-01T00:00:00Z",
          to: "2100-01-01T00:00:00Z"}}) { nodes { outcome } } }"""
        async with aiohttp.ClientSession() as session, asyncio.timeout(20):
            graphql = Client(session, server, str(server.key))
            found = await graphql.execute(query)
            while not found["usageRecords"]["nodes"]:  # type: ignore[index]  # JSON
                await asyncio.sleep(0.1)
                found = await graphql.execute(query)
        assert found["usageRecords"]["nodes"] == [{"outcome": "CANCELLED"}]  # type: ignore[index]  # JSON


class TestBudgetOfManyCalls:
    async def test_is_never_overspent_and_those_it_cannot_pay_for_are_402(
        self, client: AsyncOpenAI, server: RunningServer
    ) -> None:
        async with aiohttp.ClientSession() as session:
            graphql = Client(session, server, str(server.key))
            one = await client.chat.completions.with_raw_response.create(model=GPT, messages=HELLO, max_tokens=20)
            limit = Decimal(one.headers["x-greenlang-cost-usd"]) * 20
            asked_for = f'name: "many", scope: {{agent: "many"}}, limitUsd: "{limit}", enforcement: BLOCK'
            await graphql.execute(f"mutation {{ budgetCreate(input: {{{asked_for}}}) {{ __typename }} }}")

            async def ask() -> int:
                try:
                    raw = await client.chat.completions.with_raw_response.create(
                        model=GPT, messages=HELLO, max_tokens=20, extra_headers={"x-greenlang-agent": "many"}
                    )
                except openai.APIStatusError as refused:
                    return refused.status_code
                return raw.status_code

            statuses = await asyncio.gather(*(ask() for _ in range(200)))
            budgets = await graphql.execute("{ budgets(first: 20) { nodes { name spentUsd heldUsd } } }")
        assert set(statuses) == {200, 402}
        (many,) = (each for each in budgets["budgets"]["nodes"] if each["name"] == "many")  # type: ignore[index]  # JSON
        assert Decimal(many["spentUsd"]) <= limit
        assert Decimal(many["heldUsd"]) == 0
