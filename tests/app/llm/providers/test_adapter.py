"""Both adapters against the simulator: real SDKs, real HTTP, the same promises."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

import httpx2
import psutil
import pytest

from app.domain.errors import FailureKind, ProviderError, Refused
from app.domain.problems import InvalidInput
from app.llm.messages import (
    AnswerEnd,
    FinishReason,
    ImageUrl,
    InlineImage,
    Json,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    NamedTool,
    ReasoningEffort,
    Role,
    StreamPart,
    Text,
    TextDelta,
    ToolChoiceMode,
    ToolResult,
    UnsupportedPolicy,
)
from app.llm.providers.adapter import Adapter
from app.llm.providers.unsupported import Notes
from app.settings import ProviderKindName
from tests.app.llm.calls import (
    ANTHROPIC,
    WEATHER,
    call,
    end_of,
    parts_of,
    streamed_arguments,
    streamed_text,
    user,
)
from tests.simulators import RunningSimulator, StepFields

pytestmark = pytest.mark.anyio
CLOSED: dict[str, Json] = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
OPEN_OBJECT: dict[str, Json] = {"type": "object", "additionalProperties": {"type": "integer"}}


class TestAPlainAnswer:
    async def test_has_text_ids_and_what_the_headers_say_is_left(
        self, provider: Adapter, model: str, simulator: RunningSimulator
    ) -> None:
        answer = await provider.complete(call(model))

        seen = simulator.ended(1)[0]
        assert answer.text
        assert (answer.finish_reason, answer.model, answer.status_code) == (FinishReason.STOP, model, 200)
        assert (answer.provider_request_id, answer.notes, answer.reasoning) == (seen.request_id, (), None)
        assert answer.rate_limits is not None
        assert answer.rate_limits.requests_remaining is not None
        assert answer.rate_limits.tokens_remaining is not None

    async def test_counts_what_the_provider_counted(self, provider: Adapter, model: str, simulator: RunningSimulator) -> None:
        answer = await provider.complete(call(model))

        billed = simulator.ended(1)[0].usage or {}
        counted = (
            billed.get("input_tokens", billed.get("prompt_tokens")),
            billed.get("output_tokens", billed.get("completion_tokens")),
        )
        assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.confirmed) == (*counted, True)

    async def test_stops_at_the_cap(self, provider: Adapter, model: str) -> None:
        answer = await provider.complete(call(model, max_output_tokens=5))

        assert (answer.finish_reason, answer.usage.output_tokens) == (FinishReason.LENGTH, 5)

    async def test_says_that_a_simulator_answers(self, provider: Adapter, kind: ProviderKindName) -> None:
        assert (provider.kind, provider.name) == (f"{kind.value} (simulator)", f"my-{kind.value}")

    @pytest.mark.parametrize("fault", ["nul", "surrogate"])
    async def test_has_no_character_that_the_store_refuses(
        self, provider: Adapter, model: str, simulator: RunningSimulator, fault: str
    ) -> None:
        simulator.post(fault, fault)

        whole = await provider.complete(call(model))
        parts = await parts_of(provider, call(model))

        assert whole.text == streamed_text(parts) == "before\ufffdafter"

    @pytest.mark.parametrize("fault", ["content-filter", "refusal"])
    async def test_that_was_filtered_is_returned_as_it_is(
        self, provider: Adapter, model: str, simulator: RunningSimulator, fault: str
    ) -> None:
        simulator.post(fault)

        answer = await provider.complete(call(model, response_format=JsonSchemaFormat("count", CLOSED)))

        assert answer.finish_reason is FinishReason.CONTENT_FILTER

    async def test_leaves_no_word_of_it_in_the_log(self, provider: Adapter, model: str, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)

        answer = await provider.complete(call(model, user("the prompt")))

        assert answer.text
        assert not [text for text in caplog.messages if "the prompt" in text or answer.text in text or "Bearer" in text]


class TestAStreamedAnswer:
    async def test_is_the_plain_one_in_pieces(self, provider: Adapter, model: str) -> None:
        whole = await provider.complete(call(model))
        parts = await parts_of(provider, call(model))

        answer = end_of(parts).answer
        assert {type(part) for part in parts[:-1]} == {TextDelta}
        assert streamed_text(parts) == answer.text == whole.text
        assert (answer.usage, answer.finish_reason, answer.model) == (whole.usage, whole.finish_reason, whole.model)
        assert answer.provider_request_id
        assert answer.rate_limits

    async def test_uses_one_connection_for_one_after_the_other(self, provider: Adapter, model: str, base_url: str) -> None:
        ports = set()
        for _ in range(4):
            await parts_of(provider, call(model))
            ports |= local_ports(base_url)
            stream = provider.stream(call(model))
            async for part in stream:
                if isinstance(part, AnswerEnd):
                    break
            await stream.aclose()

            ports |= local_ports(base_url)

        assert len(ports) == 1

    @pytest.mark.parametrize("fault", ["no-done", "no-finish-reason"])
    async def test_without_its_last_event_is_whole_at_once(
        self, provider: Adapter, model: str, simulator: RunningSimulator, fault: str
    ) -> None:
        simulator.post(fault)

        answer = end_of(await parts_of(provider, call(model))).answer

        assert answer.usage.confirmed
        assert answer.finish_reason is FinishReason.STOP

    @pytest.mark.parametrize("streamed", [True, False])
    async def test_without_usage_has_an_estimate_that_says_so(
        self, provider: Adapter, model: str, simulator: RunningSimulator, *, streamed: bool
    ) -> None:
        simulator.post("no-usage")

        wanted = call(model)
        answer = end_of(await parts_of(provider, wanted)).answer if streamed else await provider.complete(wanted)

        assert not answer.usage.confirmed
        assert answer.usage.output_tokens == pytest.approx(len(answer.text or "") / 4, abs=1)
        assert answer.usage.input_tokens > 0

    async def test_shows_what_came_before_it_failed(self, provider: Adapter, model: str, simulator: RunningSimulator) -> None:
        simulator.post({"fault": "stream_error", "after_tokens": 10, "answer": {"tokens": 20}, "token_delay_ms": 50})
        stream = provider.stream(call(model))
        first = await anext(stream)
        await asyncio.to_thread(simulator.ended, 1)

        rest: list[StreamPart] = []

        async def read_on() -> None:
            while True:
                rest.append(await anext(stream))

        with pytest.raises(ProviderError) as raised:
            await read_on()

        assert raised.value.usage is not None
        assert raised.value.usage.output_tokens == pytest.approx(len(streamed_text([first, *rest])) / 4, abs=1)
        assert len(streamed_text(rest)) > len(streamed_text([first]))

    async def test_can_be_left_to_the_system_between_two_reads(
        self, provider: Adapter, model: str, simulator: RunningSimulator
    ) -> None:
        """Whatever the SDKs put around the connection, it is found."""
        simulator.post({"token_delay_ms": 3})
        wanted = call(model)
        body = provider.encode(wanted, Notes(wanted), stream=True)
        upstream = provider.upstream
        source = await upstream.open(
            provider.completions_path,
            body,
            model=model,
            first_token=timedelta(seconds=30),
            silence_deadline=wanted.deadline,
            deadline=wanted.deadline,
        )

        assert upstream.gather(source.response, wanted.deadline) > 0
        while not source.ended:
            await source.read()
        assert upstream.gather(source.response, wanted.deadline) == 0
        await source.close()

    async def test_frees_its_connection_when_the_reader_leaves(
        self, provider: Adapter, model: str, simulator: RunningSimulator
    ) -> None:
        simulator.post({"token_delay_ms": 100})
        stream = provider.stream(call(model))

        async for part in stream:
            assert isinstance(part, TextDelta)
            break
        await stream.aclose()

        assert (await asyncio.to_thread(simulator.ended, 1))[0].state == "disconnected"

    async def test_ends_with_its_task(self, provider: Adapter, model: str, simulator: RunningSimulator) -> None:
        simulator.post({"token_delay_ms": 100})
        first = asyncio.Event()

        async def read() -> None:
            async for _ in provider.stream(call(model)):
                first.set()

        reading = asyncio.create_task(read())
        await first.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

        assert (await asyncio.to_thread(simulator.ended, 1))[0].state == "disconnected"


def local_ports(base_url: str) -> set[int]:
    """Of this process's open connections to the server."""
    port = httpx2.URL(base_url).port
    connections = psutil.Process().net_connections("tcp")
    return {each.laddr[1] for each in connections if each.status == "ESTABLISHED" and each.raddr[1:] == (port,)}


class TestTools:
    async def test_are_called_several_at_once(self, provider: Adapter, model: str, simulator: RunningSimulator) -> None:
        said: StepFields = {"answer": {"tool": "weather", "calls": 3}}
        simulator.post(said, said)
        wanted = call(model, tools=(WEATHER,), tool_choice=ToolChoiceMode.AUTO)

        whole = await provider.complete(wanted)
        parts = await parts_of(provider, wanted)

        streamed = end_of(parts).answer
        for answer in (whole, streamed):
            assert answer.finish_reason is FinishReason.TOOL_CALLS
            assert [made.name for made in answer.tool_calls] == ["weather"] * 3
            assert len({made.id for made in answer.tool_calls}) == 3
        assert streamed_arguments(parts) == {made.id: made.arguments for made in streamed.tool_calls}

    async def test_give_their_results_back_with_the_reasoning_before_them(self, provider: Adapter, model: str) -> None:
        question = user("How is the weather in Basel?")
        fields: dict[str, Any] = {"tools": (WEATHER,), "reasoning_effort": ReasoningEffort.LOW, "max_output_tokens": 2000}
        first = await provider.complete(call(model, question, **fields))
        assert first.tool_calls

        turn = Message(Role.ASSISTANT, (), first.tool_calls, reasoning=first.reasoning)
        results = tuple(Message(Role.TOOL, tool_result=ToolResult(made.id, "cold")) for made in first.tool_calls)
        answer = await provider.complete(call(model, question, turn, *results, **fields))

        assert answer.finish_reason is FinishReason.STOP
        assert answer.notes == ()

    async def test_may_be_forced_by_name(self, provider: Adapter, model: str) -> None:
        answer = await provider.complete(call(model, tools=(WEATHER,), tool_choice=NamedTool("weather")))

        assert [made.name for made in answer.tool_calls] == ["weather"]


class TestAnswersInJson:
    @pytest.mark.parametrize("schema", [CLOSED, OPEN_OBJECT], ids=["closed", "open"])
    @pytest.mark.parametrize("streamed", [True, False])
    async def test_have_the_schema_asked_for(
        self, provider: Adapter, model: str, schema: dict[str, Json], *, streamed: bool
    ) -> None:
        wanted = call(model, response_format=JsonSchemaFormat("count", schema))

        answer = end_of(await parts_of(provider, wanted)).answer if streamed else await provider.complete(wanted)

        assert answer.text
        assert answer.text.startswith("{")
        assert (answer.finish_reason, answer.tool_calls) == (FinishReason.STOP, ())

    async def test_may_be_any_object(self, provider: Adapter, model: str) -> None:
        wanted = call(model, user("Give me JSON"), response_format=JsonObjectFormat())

        answer = await provider.complete(wanted)
        parts = await parts_of(provider, wanted)

        assert (answer.text or "")[:1] == "{"
        assert streamed_text(parts) == end_of(parts).answer.text == answer.text

    @pytest.mark.parametrize("fault", ["wrong-schema", "not-json"])
    @pytest.mark.parametrize("streamed", [True, False])
    async def test_of_another_schema_fail_and_say_what_was_billed(
        self, provider: Adapter, model: str, simulator: RunningSimulator, fault: str, *, streamed: bool
    ) -> None:
        simulator.post(fault)
        wanted = call(model, response_format=JsonSchemaFormat("count", CLOSED))

        with pytest.raises(ProviderError) as caught:
            await (parts_of(provider, wanted) if streamed else provider.complete(wanted))

        assert (caught.value.kind, caught.value.retryable) == (FailureKind.SCHEMA_MISMATCH, False)
        assert caught.value.usage is not None
        assert caught.value.usage.confirmed
        assert caught.value.usage.output_tokens > 0

    async def test_are_refused_before_sending_where_the_schema_is_none(
        self, provider: Adapter, model: str, simulator: RunningSimulator
    ) -> None:
        with pytest.raises(Refused) as caught:
            await provider.complete(call(model, response_format=JsonSchemaFormat("bad", {"type": "thing"})))

        assert isinstance(caught.value.reason, InvalidInput)
        assert caught.value.reason.path == ("responseFormat", "jsonSchema", "schema")
        assert simulator.log() == []


class TestWhatGoesWithACall:
    async def test_images_go_by_address_and_inline(self, provider: Adapter, model: str) -> None:
        parts = (Text("What is this?"), ImageUrl("https://images.invalid/a.png"), InlineImage("aGVsbG8=", "image/png"))

        answer = await provider.complete(call(model, Message(Role.USER, parts)))

        assert answer.usage.input_tokens > 50

    async def test_a_marked_prefix_is_cached(self, kind: ProviderKindName, provider: Adapter) -> None:
        model = "claude-sonnet-5-5" if kind is ANTHROPIC else "gpt-6-sol"
        prefix = Message(Role.SYSTEM, (Text("The rules. " * 200),), cache_up_to=True)

        first = await provider.complete(call(model, prefix, user("one")))
        second = await provider.complete(call(model, prefix, user("two")))

        assert first.usage.cache_write_tokens > 100
        assert second.usage.cached_input_tokens > 100
        assert first.usage.input_tokens == second.usage.input_tokens

    async def test_a_stop_word_ends_the_answer(self, provider: Adapter, model: str, simulator: RunningSimulator) -> None:
        simulator.post({"answer": {"text": "one two three"}})

        answer = await provider.complete(call(model, stop=("two",)))

        assert (answer.text, answer.finish_reason) == ("one ", FinishReason.STOP)

    async def test_what_a_model_does_not_take_is_left_out_with_a_note(self, kind: ProviderKindName, provider: Adapter) -> None:
        model = "claude-sonnet-5-5" if kind is ANTHROPIC else "gpt-5-mini"

        first = await provider.complete(call(model, temperature=0.5))
        again = await provider.complete(call(model, temperature=0.5))

        assert first.notes == again.notes == (f"temperature was left out: {model} does not take it.",)

    async def test_sampling_arrives_at_a_model_that_takes_it(self, kind: ProviderKindName, provider: Adapter) -> None:
        model = "claude-sonnet-4-0" if kind is ANTHROPIC else "gpt-4.1-mini"

        answer = await provider.complete(call(model, temperature=0.5, top_p=0.9))
        parts = await parts_of(provider, call(model, temperature=0.5, top_p=0.9))

        assert answer.notes == end_of(parts).answer.notes == ()
        assert answer.text

    async def test_what_a_model_does_not_take_is_refused_where_the_route_says_so(
        self, kind: ProviderKindName, provider: Adapter
    ) -> None:
        model = "claude-sonnet-5-5" if kind is ANTHROPIC else "gpt-5-mini"

        with pytest.raises(Refused) as caught:
            await provider.complete(call(model, temperature=0.5, unsupported=UnsupportedPolicy.REFUSE))

        assert caught.value.reason == InvalidInput(f"{model} does not take temperature.", ("temperature",))

    async def test_reasoning_is_counted_apart(self, provider: Adapter, model: str) -> None:
        fields: dict[str, Any] = {"reasoning_effort": ReasoningEffort.MEDIUM, "max_output_tokens": 4000}

        answer = await provider.complete(call(model, **fields))

        assert answer.usage.reasoning_tokens > 0
        assert answer.usage.output_tokens == answer.usage.reasoning_tokens + answer.usage.visible_output_tokens
