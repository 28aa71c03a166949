from __future__ import annotations

import json
from collections.abc import Iterable

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam, ChatCompletionToolParam

from tests.simulators import RunningSimulator

pytestmark = pytest.mark.anyio
MODEL = "gpt-5.4-mini"
METER_SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"meter": {"type": "string"}, "kilowatts": {"type": "integer", "minimum": 3}},
    "required": ["meter", "kilowatts"],
    "additionalProperties": False,
}


def said(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


async def ask(client: AsyncOpenAI, text: str, *, model: str = MODEL, limit: int = 200) -> ChatCompletion:
    return await client.chat.completions.create(model=model, max_completion_tokens=limit, messages=said(text))


async def streamed(client: AsyncOpenAI, text: str, *, usage: bool) -> list[ChatCompletionChunk]:
    stream = await client.chat.completions.create(
        model=MODEL, messages=said(text), stream=True, stream_options={"include_usage": usage}
    )
    return [chunk async for chunk in stream]


def tools_of(*names: str) -> Iterable[ChatCompletionToolParam]:
    return [{"type": "function", "function": {"name": name, "parameters": METER_SCHEMA}} for name in names]


class TestPlainAnswer:
    async def test_has_the_ids_and_usage_of_the_real_api(self, openai_client: AsyncOpenAI) -> None:
        completion = await ask(openai_client, "Hello there")
        text, usage = completion.choices[0].message.content, completion.usage

        assert completion.id.startswith("chatcmpl-")
        assert (completion._request_id or "").startswith("req_")
        assert (completion.model, completion.choices[0].finish_reason) == (MODEL, "stop")
        assert text is not None
        assert usage is not None
        assert usage.completion_tokens == -(-len(text) // 4)
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens

    async def test_stops_at_the_limit(self, openai_client: AsyncOpenAI) -> None:
        completion = await ask(openai_client, "Hello", limit=5)

        assert completion.choices[0].finish_reason == "length"
        assert completion.usage is not None
        assert completion.usage.completion_tokens == 5

    async def test_follows_the_seed(self, openai_client: AsyncOpenAI) -> None:
        async def with_seed(seed: int) -> str | None:
            completion = await openai_client.chat.completions.create(model=MODEL, messages=said("Hello"), seed=seed)
            return completion.choices[0].message.content

        assert await with_seed(1) == await with_seed(1) != await with_seed(2)

    async def test_counts_reasoning_in_its_own_class(self, openai_client: AsyncOpenAI) -> None:
        completion = await openai_client.chat.completions.create(model=MODEL, messages=said("Why?"), reasoning_effort="low")

        assert completion.usage is not None
        assert completion.usage.completion_tokens_details is not None
        assert completion.usage.completion_tokens_details.reasoning_tokens == 16
        assert completion.usage.completion_tokens == 16 + -(-len(completion.choices[0].message.content or "") // 4)

    async def test_accepts_images(self, openai_client: AsyncOpenAI) -> None:
        plain = await ask(openai_client, "What is this?")
        rich = await openai_client.chat.completions.create(
            model=MODEL,
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is this?"},
                        {"type": "image_url", "image_url": {"url": "https://meters.invalid/1.png"}},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                    ],
                }
            ],
        )

        assert plain.usage is not None
        assert rich.usage is not None
        assert rich.usage.prompt_tokens == plain.usage.prompt_tokens + 2000

    async def test_has_rate_limit_headers_that_count_down(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.limit("openai", requests_per_minute=100, tokens_per_minute=100_000, enforce=False)
        create = openai_client.chat.completions.with_raw_response.create
        first, second = [await create(model=MODEL, messages=said("a")) for _ in range(2)]

        assert first.headers["x-ratelimit-limit-requests"] == "100"
        assert first.headers["x-ratelimit-remaining-requests"] == "99"
        assert second.headers["x-ratelimit-remaining-requests"] == "98"
        assert int(second.headers["x-ratelimit-remaining-tokens"]) < 100_000
        assert second.headers["x-ratelimit-reset-tokens"].endswith("ms")

    async def test_an_enforced_limit_answers_429_and_bills_nothing(
        self, openai_client: AsyncOpenAI, simulator: RunningSimulator
    ) -> None:
        simulator.limit("openai", requests_per_minute=1)
        await ask(openai_client, "a")
        with pytest.raises(openai.RateLimitError) as limited:
            await ask(openai_client, "a")

        assert 0 < int(limited.value.response.headers["retry-after"]) <= 60
        assert [entry.billed for entry in simulator.ended(2)] == [True, False]


class TestStream:
    async def test_has_usage_only_where_it_was_asked_for(self, openai_client: AsyncOpenAI) -> None:
        without = await streamed(openai_client, "Hello", usage=False)
        asked = await streamed(openai_client, "Hello", usage=True)

        assert all(chunk.usage is None for chunk in without)
        assert asked[-1].usage is not None
        assert asked[-1].choices == []
        assert all(chunk.usage is None for chunk in asked[:-1])

    async def test_says_what_the_whole_answer_says(self, openai_client: AsyncOpenAI) -> None:
        chunks = await streamed(openai_client, "Hello", usage=False)
        whole = await openai_client.chat.completions.create(model=MODEL, messages=said("Hello"))

        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "stop"]


class TestRefusedRequest:
    @pytest.mark.parametrize(
        ("extra", "code"),
        [
            ({"temperatur": 1}, "unknown_parameter"),
            ({"max_tokens": 9}, "unsupported_parameter"),
            ({"max_completion_tokens": 0}, "integer_below_min_value"),
            ({"messages": []}, "empty_array"),
            ({"messages": "no"}, "invalid_type"),
            ({"reasoning_effort": "high", "temperature": 0.2}, "unsupported_value"),
            ({"stop": ["a", "b", "c", "d", "e"]}, "array_above_max_length"),
        ],
    )
    async def test_has_the_code_of_the_real_api(
        self, openai_client: AsyncOpenAI, simulator: RunningSimulator, extra: dict[str, object], code: str
    ) -> None:
        body: dict[str, object] = {"model": MODEL, "messages": [{"role": "user", "content": "a"}], **extra}
        with pytest.raises(openai.BadRequestError) as refused:
            await openai_client.post("/chat/completions", cast_to=object, body=body)

        assert (refused.value.code, refused.value.type) == (code, "invalid_request_error")
        assert not simulator.ended(1)[0].billed

    async def test_unknown_model(self, openai_client: AsyncOpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as refused:
            await ask(openai_client, "a", model="gpt-missing")
        assert refused.value.code == "model_not_found"

    async def test_context_too_long(self, openai_client: AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="maximum context length is 128000 tokens") as refused:
            await ask(openai_client, "word" * 128_000, model="gpt-4o-mini")
        assert refused.value.code == "context_length_exceeded"

    async def test_a_key_that_is_refused_and_is_not_repeated(self, simulator: RunningSimulator) -> None:
        async with AsyncOpenAI(base_url=simulator.openai_url, api_key="sk-refused-verysecret", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError) as refused:
                await ask(client, "a")
        assert refused.value.code == "invalid_api_key"
        assert "verysecret" not in str(refused.value)

    async def test_a_result_without_its_tool_call(self, openai_client: AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="must be a response to a preceeding message"):
            await openai_client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": "a"}, {"role": "tool", "tool_call_id": "call_0", "content": "1"}],
            )


class TestTools:
    async def test_the_forced_tool_is_called_with_arguments_of_its_schema(self, openai_client: AsyncOpenAI) -> None:
        completion = await openai_client.chat.completions.create(
            model=MODEL,
            messages=said("Go"),
            tools=tools_of("read_meter", "unused"),
            tool_choice={"type": "function", "function": {"name": "read_meter"}},
        )
        choice = completion.choices[0]

        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        (call,) = choice.message.tool_calls or []
        assert call.type == "function"
        assert json.loads(call.function.arguments).keys() == {"meter", "kilowatts"}

    async def test_several_calls_stream_their_arguments_in_pieces(self, openai_client: AsyncOpenAI) -> None:
        arguments: dict[int, str] = {}
        names: list[str] = []
        stream = await openai_client.chat.completions.create(
            model=MODEL, messages=said("read_meter and read_valve"), tools=tools_of("read_meter", "read_valve"), stream=True
        )
        async for chunk in stream:
            for call in chunk.choices[0].delta.tool_calls or []:
                assert call.function is not None
                names += [call.function.name] if call.function.name else []
                arguments[call.index] = arguments.get(call.index, "") + (call.function.arguments or "")

        assert names == ["read_meter", "read_valve"]
        assert [json.loads(text).keys() for text in arguments.values()] == [{"meter", "kilowatts"}] * 2

    async def test_json_schema_is_satisfied(self, openai_client: AsyncOpenAI) -> None:
        completion = await openai_client.chat.completions.create(
            model=MODEL,
            messages=said("Go"),
            response_format={"type": "json_schema", "json_schema": {"name": "meter", "schema": METER_SCHEMA, "strict": True}},
        )

        assert json.loads(completion.choices[0].message.content or "").keys() == {"meter", "kilowatts"}

    async def test_json_mode_wants_the_word_in_the_prompt(self, openai_client: AsyncOpenAI) -> None:
        async def in_json(text: str) -> str:
            completion = await openai_client.chat.completions.create(
                model=MODEL, messages=said(text), response_format={"type": "json_object"}
            )
            return completion.choices[0].message.content or ""

        assert isinstance(json.loads(await in_json("Answer in JSON")), dict)
        with pytest.raises(openai.BadRequestError, match="must contain the word 'json'"):
            await in_json("Answer")

    async def test_an_open_strict_schema_is_refused_as_by_the_real_api(self, openai_client: AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            await openai_client.chat.completions.create(
                model=MODEL,
                messages=said("Go"),
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "meter", "schema": {"type": "object", "properties": {}}, "strict": True},
                },
            )
        assert refused.value.code == "invalid_json_schema"

    @pytest.mark.parametrize(
        ("role", "part", "message"),
        [
            ("user", {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0="}}, "filename"),
            ("user", {"type": "file", "file": {"filename": "a.pdf", "file_data": "JVBERi0="}}, "Invalid file data"),
            (
                "user",
                {"type": "file", "file": {"filename": "a", "file_data": "data:text/plain;base64,YQ=="}},
                "Invalid file data",
            ),
            ("user", {"type": "file", "file": {"filename": "a", "file_data": "data:application/pdf;base64,YQ=="}}, "file data"),
            ("user", {"type": "file", "file": {"file_id": "file-1"}}, "No such File object"),
            (
                "system",
                {"type": "image_url", "image_url": {"url": "https://a.example"}},
                "only allowed for messages",
            ),
            ("assistant", {"type": "file", "file": {"filename": "a"}}, "only allowed for messages"),
        ],
    )
    async def test_a_file_is_a_pdf_of_the_user(
        self, openai_client: AsyncOpenAI, role: str, part: dict[str, object], message: str
    ) -> None:
        with pytest.raises((openai.BadRequestError, openai.NotFoundError), match=message):
            await openai_client.post(
                "/chat/completions", cast_to=object, body={"model": MODEL, "messages": [{"role": role, "content": [part]}]}
            )

    @pytest.mark.parametrize(
        ("model", "fields", "message"),
        [
            ("gpt-5.4-mini", {"reasoning_effort": "max"}, "Supported values are"),
            ("o3", {"reasoning_effort": "none"}, "Supported values are"),
            ("gpt-4.1-mini", {"reasoning_effort": "low"}, "Unrecognized request argument"),
            ("gpt-4.1-mini", {"service_tier": "flex"}, "Invalid service_tier"),
            ("gpt-5.4-mini", {"service_tier": "express"}, "Invalid service_tier"),
        ],
    )
    async def test_a_field_that_the_model_does_not_take_is_refused(
        self, openai_client: AsyncOpenAI, model: str, fields: dict[str, object], message: str
    ) -> None:
        with pytest.raises(openai.BadRequestError, match=message):
            await openai_client.post("/chat/completions", cast_to=object, body={"model": model, "messages": said("a"), **fields})


class TestPromptCache:
    LONG = "The manual of the plant. " * 100

    @pytest.mark.parametrize(("model", "reports_writes"), [("gpt-6-luna", True), ("gpt-5.4-mini", False)])
    async def test_a_long_prefix_is_read_the_second_time(
        self, openai_client: AsyncOpenAI, model: str, *, reports_writes: bool
    ) -> None:
        first, second = [(await ask(openai_client, self.LONG, model=model)).usage for _ in range(2)]

        assert first is not None
        assert first.prompt_tokens_details is not None
        assert second is not None
        assert second.prompt_tokens_details is not None
        assert first.prompt_tokens_details.cached_tokens == 0
        assert second.prompt_tokens_details.cached_tokens == 512
        assert second.prompt_tokens == first.prompt_tokens
        assert first.prompt_tokens_details.cache_write_tokens == (512 if reports_writes else None)
