from __future__ import annotations

import json

import anthropic
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import Message, ToolUseBlock

from tests.simulators import RunningSimulator

pytestmark = pytest.mark.anyio
MODEL = "claude-haiku-5-5"
METER_SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"meter": {"type": "string"}, "kilowatts": {"type": "integer", "minimum": 3}},
    "required": ["meter", "kilowatts"],
    "additionalProperties": False,
}


async def ask(client: AsyncAnthropic, text: str, *, model: str = MODEL, max_tokens: int = 200) -> Message:
    return await client.messages.create(model=model, max_tokens=max_tokens, messages=[{"role": "user", "content": text}])


def text_of(message: Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


class TestPlainAnswer:
    async def test_has_the_ids_and_usage_of_the_real_api(self, anthropic_client: AsyncAnthropic) -> None:
        message = await ask(anthropic_client, "Hello there")

        assert message.id.startswith("msg_01")
        assert (message._request_id or "").startswith("req_011C")
        assert (message.model, message.stop_reason) == (MODEL, "end_turn")
        assert message.usage.output_tokens == -(-len(text_of(message)) // 4)
        assert message.usage.input_tokens == -(-(len("Hello there") + 12) // 4)

    async def test_is_the_same_for_the_same_request_streamed_or_not(self, anthropic_client: AsyncAnthropic) -> None:
        first, second = await ask(anthropic_client, "Hello"), await ask(anthropic_client, "Hello")
        async with anthropic_client.messages.stream(
            model=MODEL, max_tokens=200, messages=[{"role": "user", "content": "Hello"}]
        ) as stream:
            streamed = await stream.get_final_message()

        assert text_of(first) == text_of(second) == text_of(streamed)
        assert first.id != second.id
        assert first.usage.output_tokens == streamed.usage.output_tokens

    async def test_stops_at_max_tokens(self, anthropic_client: AsyncAnthropic) -> None:
        message = await ask(anthropic_client, "Hello", max_tokens=5)

        assert message.stop_reason == "max_tokens"
        assert message.usage.output_tokens == 5
        assert len(text_of(message)) == 20

    async def test_has_the_length_a_marker_asks_for(self, anthropic_client: AsyncAnthropic) -> None:
        message = await ask(anthropic_client, "Hello [[simulator tokens=150]]")

        assert message.usage.output_tokens == 150

    async def test_stops_at_a_stop_sequence(self, anthropic_client: AsyncAnthropic) -> None:
        message = await anthropic_client.messages.create(
            model=MODEL,
            max_tokens=50,
            stop_sequences=["END"],
            messages=[{"role": "user", "content": "[[simulator text='one END two']]"}],
        )

        assert (message.stop_reason, message.stop_sequence, text_of(message)) == ("stop_sequence", "END", "one ")

    async def test_counts_system_and_images(self, anthropic_client: AsyncAnthropic) -> None:
        plain = await ask(anthropic_client, "What is this?")
        rich = await anthropic_client.messages.create(
            model=MODEL,
            max_tokens=50,
            system="You read meters.",
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "source": {"type": "url", "url": "https://meters.invalid/1.png"}},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
                        {"type": "text", "text": "What is this?"},
                    ],
                }
            ],
        )

        assert rich.usage.input_tokens == plain.usage.input_tokens + 2000 + len("You read meters.") // 4

    async def test_has_rate_limit_headers_that_count_down(
        self, anthropic_client: AsyncAnthropic, simulator: RunningSimulator
    ) -> None:
        simulator.limit("anthropic", requests_per_minute=100, tokens_per_minute=100_000, enforce=False)
        create = anthropic_client.messages.with_raw_response.create
        first = await create(model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "a"}])
        second = await create(model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "a"}])

        assert first.headers["anthropic-ratelimit-requests-limit"] == "100"
        assert first.headers["anthropic-ratelimit-requests-remaining"] == "99"
        assert second.headers["anthropic-ratelimit-requests-remaining"] == "98"
        assert int(second.headers["anthropic-ratelimit-tokens-remaining"]) < 100_000
        assert second.headers["anthropic-ratelimit-requests-reset"].endswith("Z")


class TestRefusedRequest:
    @pytest.mark.parametrize("name", ["temperature", "top_p", "top_k"])
    async def test_sampling_is_gone(self, anthropic_client: AsyncAnthropic, name: str) -> None:
        with pytest.raises(anthropic.BadRequestError, match=f"{name}: Extra inputs are not permitted") as refused:
            await anthropic_client.messages.create(
                model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "a"}], extra_body={name: 1}
            )
        assert refused.value.type == "invalid_request_error"

    @pytest.mark.parametrize("kind", ["disabled", "enabled"])
    async def test_thinking_of_a_model_that_always_thinks_is_not_the_callers(
        self, anthropic_client: AsyncAnthropic, kind: str
    ) -> None:
        with pytest.raises(anthropic.BadRequestError, match=f'"thinking.type.{kind}" is not supported for this model'):
            await anthropic_client.messages.create(
                model="claude-fable-5",
                max_tokens=9,
                messages=[{"role": "user", "content": "a"}],
                extra_body={"thinking": {"type": kind}},
            )

    @pytest.mark.parametrize("kind", ["enabled", "adaptive"])
    async def test_a_model_that_thinks_is_not_forced_to_use_a_tool(self, anthropic_client: AsyncAnthropic, kind: str) -> None:
        body = {
            "thinking": {"type": kind, "budget_tokens": 1024} if kind == "enabled" else {"type": kind},
            "tools": [{"name": "now", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "any"},
        }
        with pytest.raises(anthropic.BadRequestError, match="Thinking may not be enabled when tool_choice forces tool use"):
            await anthropic_client.messages.create(
                model=MODEL,
                max_tokens=2000,
                messages=[{"role": "user", "content": "a"}],
                extra_body=body,
            )

    @pytest.mark.parametrize(
        ("model", "body", "message"),
        [
            ("claude-sonnet-5-5", {"temperature": 1}, "`temperature` is deprecated for this model"),
            ("claude-opus-4-7", {"top_p": 0.9}, "`top_p` is deprecated for this model"),
            ("claude-sonnet-4-5", {"temperature": 1, "top_p": 0.9}, "cannot both be specified for this model"),
            ("claude-sonnet-4-0", {"temperature": 1.5}, "temperature: range: 0..1"),
            (
                "claude-opus-4-6",
                {"temperature": 0.5, "thinking": {"type": "adaptive"}},
                "`temperature` may only be set to 1 when thinking is enabled",
            ),
        ],
    )
    async def test_sampling_of_the_old_version_is_the_models(
        self, anthropic_client: AsyncAnthropic, model: str, body: dict[str, object], message: str
    ) -> None:
        with pytest.raises(anthropic.BadRequestError, match=message):
            await anthropic_client.post(
                "/v1/messages",
                cast_to=object,
                body={"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "a"}], **body},
                options={"headers": {"anthropic-version": "2023-06-01"}},
            )

    @pytest.mark.parametrize(
        ("role", "block", "message"),
        [
            (
                "user",
                {"source": {"type": "base64", "media_type": "application/pdf", "data": "YQ=="}},
                "was not valid",
            ),
            ("user", {"source": {"type": "base64", "media_type": "image/png", "data": "JVBERi0="}}, "media_type"),
            ("user", {"source": {"type": "text", "media_type": "text/plain", "data": ""}}, "at least 1 character"),
            ("user", {"source": {"type": "text", "media_type": "text/html", "data": "a"}}, "media_type"),
            ("user", {"source": {"type": "url", "url": "ftp://a.example"}}, "Only HTTPS URLs"),
            ("user", {}, "Field required"),
            ("assistant", {"source": {"type": "text", "media_type": "text/plain", "data": "a"}}, "not permitted in assistant"),
        ],
    )
    async def test_a_document_has_a_good_source(
        self, anthropic_client: AsyncAnthropic, role: str, block: dict[str, object], message: str
    ) -> None:
        asked = [{"role": "user", "content": "a"}, {"role": role, "content": [{"type": "document", **block}]}]
        with pytest.raises(anthropic.BadRequestError, match=message):
            await anthropic_client.post(
                "/v1/messages", cast_to=object, body={"model": "sim-small", "max_tokens": 9, "messages": asked}
            )

    @pytest.mark.parametrize(
        ("model", "fields", "message"),
        [
            ("claude-opus-4-6", {"output_config": {"effort": "xhigh"}}, "does not support effort level 'xhigh'"),
            ("claude-haiku-5-5", {"speed": "fast"}, "fast mode is not supported"),
            ("claude-opus-5-5", {"service_tier": "flex"}, "service_tier"),
            (
                "claude-opus-5-5",
                {"tools": [{"name": "a", "strict": True, "input_schema": {"type": "object", "properties": {}}}]},
                "'additionalProperties' must be set to false",
            ),
            (
                "claude-opus-5-5",
                {
                    "tools": [{"name": "a", "input_schema": {}, "cache_control": {"type": "ephemeral"}}],
                    "system": [{"type": "text", "text": "b", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
                },
                "ttl='1h' cache_control block must not come after",
            ),
        ],
    )
    async def test_a_field_that_the_model_does_not_take(
        self, anthropic_client: AsyncAnthropic, model: str, fields: dict[str, object], message: str
    ) -> None:
        body = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "a"}], **fields}
        with pytest.raises(anthropic.BadRequestError, match=message):
            await anthropic_client.post("/v1/messages", cast_to=object, body=body)

    async def test_max_tokens_is_required(self, anthropic_client: AsyncAnthropic) -> None:
        with pytest.raises(anthropic.BadRequestError, match="max_tokens: Field required"):
            await anthropic_client.post(
                "/v1/messages", cast_to=object, body={"model": MODEL, "messages": [{"role": "user", "content": "a"}]}
            )

    async def test_no_messages(self, anthropic_client: AsyncAnthropic) -> None:
        with pytest.raises(anthropic.BadRequestError, match="at least one message"):
            await anthropic_client.messages.create(model=MODEL, max_tokens=9, messages=[])

    async def test_a_role_that_is_none(self, anthropic_client: AsyncAnthropic) -> None:
        with pytest.raises(anthropic.BadRequestError, match=r"messages\.\[0\]\.role"):
            await anthropic_client.post(
                "/v1/messages",
                cast_to=object,
                body={"model": MODEL, "max_tokens": 9, "messages": [{"role": "x", "content": "a"}]},
            )

    async def test_unknown_model(self, anthropic_client: AsyncAnthropic) -> None:
        with pytest.raises(anthropic.NotFoundError, match="model: claude-missing") as refused:
            await ask(anthropic_client, "a", model="claude-missing")
        assert refused.value.type == "not_found_error"

    async def test_context_too_long(self, anthropic_client: AsyncAnthropic) -> None:
        with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: 200003 tokens > 200000 maximum"):
            await ask(anthropic_client, "word" * 200_000, model="claude-haiku-4-5")

    async def test_a_key_that_is_refused(self, simulator: RunningSimulator) -> None:
        async with AsyncAnthropic(base_url=simulator.anthropic_url, api_key="sk-refused", max_retries=0) as client:
            with pytest.raises(anthropic.AuthenticationError) as refused:
                await ask(client, "a")
        assert refused.value.type == "authentication_error"
        assert refused.value.request_id is not None

    async def test_prefill_is_refused_by_new_models_only(self, anthropic_client: AsyncAnthropic) -> None:
        async def prefilled(model: str) -> Message:
            return await anthropic_client.messages.create(
                model=model,
                max_tokens=9,
                messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "It is ("}],
            )

        assert (await prefilled("claude-haiku-4-5")).usage.output_tokens == 9
        with pytest.raises(anthropic.BadRequestError, match="does not support assistant message prefill"):
            await prefilled(MODEL)

    async def test_a_result_without_its_tool_call(self, anthropic_client: AsyncAnthropic) -> None:
        with pytest.raises(anthropic.BadRequestError, match="unexpected `tool_use_id`"):
            await anthropic_client.messages.create(
                model=MODEL,
                max_tokens=9,
                messages=[{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_0", "content": "1"}]}],
            )


class TestPromptCache:
    PREFIX = "The manual of the plant. " * 100

    async def ask_marked(self, client: AsyncAnthropic, question: str, *, hour: bool = False) -> Message:
        return await client.messages.create(
            model=MODEL,
            max_tokens=9,
            system=[{"type": "text", "text": self.PREFIX, "cache_control": {"type": "ephemeral", "ttl": "1h" if hour else "5m"}}],
            messages=[{"role": "user", "content": question}],
        )

    async def test_the_second_call_reads_what_the_first_wrote(self, anthropic_client: AsyncAnthropic) -> None:
        first = (await self.ask_marked(anthropic_client, "What is steam?")).usage
        second = (await self.ask_marked(anthropic_client, "What is heat?")).usage

        assert first.cache_creation_input_tokens == second.cache_read_input_tokens == len(self.PREFIX) // 4
        assert first.cache_creation is not None
        assert first.cache_creation.ephemeral_5m_input_tokens == len(self.PREFIX) // 4
        assert (first.cache_read_input_tokens, second.cache_creation_input_tokens) == (0, 0)
        assert second.input_tokens == -(-(len("What is heat?") + 12) // 4)

    async def test_an_hour_is_counted_in_its_own_class(self, anthropic_client: AsyncAnthropic) -> None:
        usage = (await self.ask_marked(anthropic_client, "What is steam?", hour=True)).usage

        assert usage.cache_creation is not None
        assert usage.cache_creation.ephemeral_1h_input_tokens == len(self.PREFIX) // 4
        assert usage.cache_creation.ephemeral_5m_input_tokens == 0

    async def test_a_growing_conversation_reads_its_past_and_writes_the_rest(self, anthropic_client: AsyncAnthropic) -> None:
        async def turn(*texts: str) -> Message:
            return await anthropic_client.messages.create(
                model=MODEL,
                max_tokens=9,
                cache_control={"type": "ephemeral"},
                messages=[
                    {"role": "assistant", "content": text} if at % 2 else {"role": "user", "content": text}
                    for at, text in enumerate(texts)
                ],
            )

        first = (await turn(self.PREFIX)).usage
        second = (await turn(self.PREFIX, "It is hot.", "How hot is it then?")).usage

        assert second.cache_read_input_tokens == first.cache_creation_input_tokens
        assert second.input_tokens == 0
        assert second.cache_creation_input_tokens is not None
        assert 0 < second.cache_creation_input_tokens < 20

    async def test_a_failed_call_writes_nothing(self, anthropic_client: AsyncAnthropic, simulator: RunningSimulator) -> None:
        simulator.post("overloaded")
        with pytest.raises(anthropic.OverloadedError):
            await self.ask_marked(anthropic_client, "What is steam?")

        assert (await self.ask_marked(anthropic_client, "What is steam?")).usage.cache_read_input_tokens == 0

    async def test_five_marks_are_one_too_many(self, anthropic_client: AsyncAnthropic) -> None:
        with pytest.raises(anthropic.BadRequestError, match="A maximum of 4 blocks with cache_control"):
            await anthropic_client.messages.create(
                model=MODEL,
                max_tokens=9,
                system=[{"type": "text", "text": self.PREFIX, "cache_control": {"type": "ephemeral"}}] * 5,
                messages=[{"role": "user", "content": "a"}],
            )


class TestTools:
    async def test_the_forced_tool_is_called_with_arguments_of_its_schema(self, anthropic_client: AsyncAnthropic) -> None:
        message = await anthropic_client.messages.create(
            model=MODEL,
            max_tokens=200,
            tools=[{"name": "read_meter", "input_schema": {**METER_SCHEMA}}],
            tool_choice={"type": "tool", "name": "read_meter"},
            messages=[{"role": "user", "content": "Go"}],
        )

        (call,) = message.content
        assert isinstance(call, ToolUseBlock)
        assert (message.stop_reason, call.name, call.id[:8]) == ("tool_use", "read_meter", "toolu_01")
        assert set(call.input) == {"meter", "kilowatts"}

    async def test_tools_named_in_the_prompt_are_called_together_and_answered(self, anthropic_client: AsyncAnthropic) -> None:
        tools: list[anthropic.types.ToolParam] = [
            {"name": name, "input_schema": {**METER_SCHEMA}} for name in ("read_meter", "read_valve", "unused")
        ]
        question: anthropic.types.MessageParam = {"role": "user", "content": "Please read_meter and read_valve"}
        async with anthropic_client.messages.stream(model=MODEL, max_tokens=200, tools=tools, messages=[question]) as stream:
            first = await stream.get_final_message()
        calls = [block for block in first.content if block.type == "tool_use"]
        second = await anthropic_client.messages.create(
            model=MODEL,
            max_tokens=200,
            tools=tools,
            messages=[
                question,
                {"role": "assistant", "content": first.content},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "7"} for call in calls]},
            ],
        )

        assert [call.name for call in calls] == ["read_meter", "read_valve"]
        assert first.usage.output_tokens == sum(-(-len(call.name) // 4) for call in calls) + sum(
            -(-len(json.dumps(call.input, separators=(",", ":"))) // 4) for call in calls
        )
        assert second.stop_reason == "end_turn"

    async def test_native_structured_output_satisfies_its_schema(self, anthropic_client: AsyncAnthropic) -> None:
        message = await anthropic_client.messages.create(
            model=MODEL,
            max_tokens=200,
            output_config={"format": {"type": "json_schema", "schema": METER_SCHEMA}},
            messages=[{"role": "user", "content": "Go"}],
        )

        assert json.loads(text_of(message)).keys() == {"meter", "kilowatts"}

    async def test_an_open_object_is_refused_as_by_the_real_api(self, anthropic_client: AsyncAnthropic) -> None:
        with pytest.raises(anthropic.BadRequestError, match="'additionalProperties' must be explicitly set to false"):
            await anthropic_client.messages.create(
                model=MODEL,
                max_tokens=200,
                output_config={"format": {"type": "json_schema", "schema": {"type": "object", "properties": {}}}},
                messages=[{"role": "user", "content": "Go"}],
            )


class TestThinking:
    async def think(self, client: AsyncAnthropic, *before: anthropic.types.MessageParam) -> Message:
        return await client.messages.create(
            model=MODEL,
            max_tokens=4000,
            thinking={"type": "enabled", "budget_tokens": 1024},
            messages=[*before, {"role": "user", "content": "Why?"}],
        )

    async def test_is_counted_in_its_own_class_and_signed(self, anthropic_client: AsyncAnthropic) -> None:
        message = await self.think(anthropic_client)

        thought = message.content[0]
        assert thought.type == "thinking"
        assert len(thought.signature) > 40
        assert message.usage.output_tokens_details is not None
        assert message.usage.output_tokens_details.thinking_tokens == 64
        assert message.usage.output_tokens == 64 + -(-len(text_of(message)) // 4)

    async def test_comes_back_unchanged_or_is_refused(self, anthropic_client: AsyncAnthropic) -> None:
        message = await self.think(anthropic_client)
        question: anthropic.types.MessageParam = {"role": "user", "content": "Why?"}
        again = await self.think(anthropic_client, question, {"role": "assistant", "content": message.content})
        thought = message.content[0]
        assert thought.type == "thinking"
        thought.thinking += " (changed)"

        assert again.usage.output_tokens > 64
        with pytest.raises(anthropic.BadRequestError, match="Invalid `signature` in `thinking` block"):
            await self.think(anthropic_client, question, {"role": "assistant", "content": message.content})

    async def test_streams_before_the_text(self, anthropic_client: AsyncAnthropic) -> None:
        kinds: list[str] = []
        async for event in await anthropic_client.messages.create(
            model=MODEL,
            max_tokens=4000,
            stream=True,
            thinking={"type": "adaptive"},
            output_config={"effort": "low"},
            messages=[{"role": "user", "content": "Why?"}],
        ):
            kind = event.delta.type if event.type == "content_block_delta" else event.type
            if kinds[-1:] != [kind]:
                kinds.append(kind)

        assert kinds == [
            "message_start",
            "content_block_start",
            "thinking_delta",
            "signature_delta",
            "content_block_stop",
            "content_block_start",
            "text_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]


class TestModelsAndCounting:
    async def test_lists_pages_of_models(self, anthropic_client: AsyncAnthropic) -> None:
        page = await anthropic_client.models.list(limit=2)
        names = [model.id async for model in page]

        assert len(page.data) == 2
        assert len(names) == len(set(names)) > 2
        assert {MODEL, "sim-unpriced"} <= set(names)

    async def test_finds_one_model(self, anthropic_client: AsyncAnthropic) -> None:
        assert (await anthropic_client.models.retrieve(MODEL)).max_input_tokens == 1_000_000
        with pytest.raises(anthropic.NotFoundError):
            await anthropic_client.models.retrieve("claude-missing")

    async def test_without_the_prefix_the_version_header_reports_the_provider(self, simulator: RunningSimulator) -> None:
        async with AsyncAnthropic(base_url=simulator.address, api_key="sk-ant", max_retries=0) as client:
            names = [model.id async for model in client.models.list()]
            message = await ask(client, "Hello")

        assert MODEL in names
        assert message.model == MODEL

    async def test_counts_what_it_will_bill(self, anthropic_client: AsyncAnthropic) -> None:
        counted = await anthropic_client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "How much?"}])

        assert counted.input_tokens == (await ask(anthropic_client, "How much?")).usage.input_tokens
