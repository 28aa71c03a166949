"""Each field of a request, through the real SDKs to the simulator: what arrives means what was asked, or a note says so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import TypeAdapter

from app.domain.errors import Refused, RefusedByTarget
from app.domain.problems import InvalidInput
from app.domain.usage import ServiceTier
from app.llm.messages import (
    Answer,
    AskedTier,
    CacheTtl,
    Json,
    JsonSchemaFormat,
    Message,
    ModelCall,
    ReasoningEffort,
    Role,
    Text,
    Tool,
    ToolChoiceMode,
    UnsupportedPolicy,
)
from app.settings import ProviderKindName
from tests.app.llm.calls import ANTHROPIC, MODELS, OPENAI, WEATHER, adapter, call, end_of, parts_of, user
from tests.recorder import Recorder, recording
from tests.simulators import RunningSimulator

pytestmark = pytest.mark.anyio
PARAMS: dict[ProviderKindName, TypeAdapter[Any]] = {
    ANTHROPIC: TypeAdapter(MessageCreateParamsNonStreaming),
    OPENAI: TypeAdapter(CompletionCreateParamsNonStreaming),
}
CLOSED: dict[str, Json] = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
STRICT = Tool("count", CLOSED, strict=True)
OPTIONS: dict[str, dict[str, Json]] = {
    "anthropic": {"metadata": {"user_id": "u-1"}},
    "openai": {"verbosity": "low", "logit_bias": {"50256": -100}},
    "openai-compatible": {"top_k": 5},
}
NONE, MINIMAL, LOW, MEDIUM, HIGH, XHIGH, MAX = ReasoningEffort


@asynccontextmanager
async def sent(simulator: RunningSimulator, kind: ProviderKindName) -> AsyncIterator[tuple[Recorder, Any]]:
    base_url = simulator.anthropic_url if kind is ANTHROPIC else simulator.openai_url
    server = base_url.removesuffix("/v1")
    async with recording(server) as recorder:
        provider = adapter(kind, recorder.url + base_url.removeprefix(server))
        try:
            yield recorder, provider
        finally:
            await provider.close()


async def answered(simulator: RunningSimulator, kind: ProviderKindName, wanted: ModelCall) -> tuple[dict[str, Any], Answer]:
    """The body that the provider took, whole and streamed alike, and the answer."""
    async with sent(simulator, kind) as (recorder, provider):
        answer = await provider.complete(wanted)
        streamed = end_of(await parts_of(provider, wanted)).answer
        body = recorder.bodies[-2]
        PARAMS[kind].validate_python(body)
        beside = {name: value for name, value in recorder.bodies[-1].items() if name not in {"stream", "stream_options"}}
        assert (beside, streamed.notes) == (body, answer.notes)
        return body, answer


def fields(body: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: body[name] for name in names if name in body}


class TestParallelToolCalls:
    @pytest.mark.parametrize("choice", [None, ToolChoiceMode.AUTO, ToolChoiceMode.REQUIRED])
    async def test_may_be_turned_off(
        self, simulator: RunningSimulator, kind: ProviderKindName, model: str, choice: ToolChoiceMode | None
    ) -> None:
        tools = (WEATHER, replace(WEATHER, name="weather_later"))
        asked = call(model, user("weather and weather_later"), tools=tools, tool_choice=choice)

        both = (await answered(simulator, kind, asked))[1]
        body, one = await answered(simulator, kind, replace(asked, parallel_tool_calls=False))

        assert (len(both.tool_calls), len(one.tool_calls), one.notes) == (2, 1, ())
        if kind is ANTHROPIC:
            kinds = {None: "auto", ToolChoiceMode.AUTO: "auto", ToolChoiceMode.REQUIRED: "any"}
            assert body["tool_choice"] == {"type": kinds[choice], "disable_parallel_tool_use": True}
        else:
            assert body["parallel_tool_calls"] is False

    async def test_mean_nothing_without_tools(self, simulator: RunningSimulator, kind: ProviderKindName, model: str) -> None:
        body, answer = await answered(simulator, kind, call(model, parallel_tool_calls=False))

        assert answer.notes == ()
        assert not {"parallel_tool_calls", "tool_choice"} & set(body)


class TestStrict:
    async def test_reaches_the_provider(self, simulator: RunningSimulator, kind: ProviderKindName, model: str) -> None:
        body, answer = await answered(simulator, kind, call(model, user("count"), tools=(STRICT,)))

        assert answer.notes == ()
        assert (body["tools"][0] if kind is ANTHROPIC else body["tools"][0]["function"])["strict"] is True

    async def test_is_refused_for_a_target_that_cannot_keep_to_the_schema(
        self, simulator: RunningSimulator, kind: ProviderKindName, model: str
    ) -> None:
        open_format = JsonSchemaFormat("n", {"type": "object", "additionalProperties": {"type": "integer"}}, strict=True)
        async with sent(simulator, kind) as (recorder, provider):
            for wanted, path in (
                (call(model, tools=(STRICT, replace(WEATHER, strict=True))), ("tools", "1", "strict")),
                (call(model, response_format=open_format), ("responseFormat", "jsonSchema", "strict")),
            ):
                with pytest.raises(RefusedByTarget) as caught:
                    await provider.complete(wanted)
                assert isinstance(caught.value.reason, InvalidInput)
                assert caught.value.reason.path == path
            assert recorder.bodies == []

    @pytest.mark.parametrize("strict", [None, True, False])
    async def test_of_a_closed_schema_may_be_said_or_left_out(
        self, simulator: RunningSimulator, kind: ProviderKindName, model: str, *, strict: bool | None
    ) -> None:
        body, _ = await answered(simulator, kind, call(model, response_format=JsonSchemaFormat("n", CLOSED, strict)))

        if kind is OPENAI:
            assert body["response_format"]["json_schema"]["strict"] is (strict is not False)


class TestServiceTier:
    @pytest.mark.parametrize(
        ("kind", "tier", "said", "served"),
        [
            (OPENAI, AskedTier.STANDARD, {"service_tier": "default"}, ServiceTier.STANDARD),
            (OPENAI, AskedTier.FLEX, {"service_tier": "flex"}, ServiceTier.FLEX),
            (OPENAI, AskedTier.PRIORITY, {"service_tier": "priority"}, ServiceTier.PRIORITY),
            (OPENAI, AskedTier.FAST, {"service_tier": "fast"}, ServiceTier.PRIORITY),
            (ANTHROPIC, AskedTier.STANDARD, {"service_tier": "standard_only"}, ServiceTier.STANDARD),
            (ANTHROPIC, AskedTier.PRIORITY, {"service_tier": "auto"}, ServiceTier.STANDARD),
            (ANTHROPIC, AskedTier.FAST, {"speed": "fast"}, ServiceTier.FAST),
        ],
    )
    async def test_reaches_the_provider_and_its_bill(
        self,
        simulator: RunningSimulator,
        kind: ProviderKindName,
        tier: AskedTier,
        said: dict[str, str],
        served: ServiceTier,
    ) -> None:
        body, answer = await answered(simulator, kind, call(MODELS[kind], service_tier=tier))

        assert fields(body, "service_tier", "speed") == said
        assert (answer.usage.service_tier, answer.notes) == (served, ())

    @pytest.mark.parametrize(
        ("kind", "model", "tier"),
        [
            (ANTHROPIC, "claude-sonnet-5-5", AskedTier.FLEX),
            (ANTHROPIC, "claude-haiku-5-5", AskedTier.FAST),
            (OPENAI, "gpt-4.1-mini", AskedTier.PRIORITY),
        ],
    )
    async def test_that_a_model_does_not_have_is_left_out_with_a_note(
        self, simulator: RunningSimulator, kind: ProviderKindName, model: str, tier: AskedTier
    ) -> None:
        body, answer = await answered(simulator, kind, call(model, service_tier=tier))

        assert fields(body, "service_tier", "speed") == {}
        assert answer.notes == (f"serviceTier was left out: {model} does not take it.",)


class TestCacheMarks:
    LONG = "The manual of the plant. " * 60

    async def test_of_an_hour_are_written_for_an_hour(self, simulator: RunningSimulator) -> None:
        system = Message(Role.SYSTEM, (Text(self.LONG),), cache_up_to=True, cache_ttl=CacheTtl.ONE_HOUR)

        body, answer = await answered(simulator, ANTHROPIC, call(MODELS[ANTHROPIC], system, user("Go")))

        assert body["system"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
        assert answer.usage.cache_write_1h_tokens > 300
        assert answer.usage.cache_write_5m_tokens == 0

    async def test_may_end_the_tools(self, simulator: RunningSimulator) -> None:
        tools = (WEATHER, replace(WEATHER, name="later", description=self.LONG, cache_up_to=True, cache_ttl=CacheTtl.ONE_HOUR))
        system = Message(Role.SYSTEM, (Text(self.LONG),), cache_up_to=True)

        body, answer = await answered(simulator, ANTHROPIC, call(MODELS[ANTHROPIC], system, user("Go"), tools=tools))

        assert [tool.get("cache_control") for tool in body["tools"]] == [None, {"type": "ephemeral", "ttl": "1h"}]
        assert answer.notes == ()
        assert min(answer.usage.cache_write_1h_tokens, answer.usage.cache_write_5m_tokens) > 300

    async def test_of_an_hour_after_shorter_ones_are_shortened_with_a_note(self, simulator: RunningSimulator) -> None:
        system = Message(Role.SYSTEM, (Text(self.LONG),), cache_up_to=True)
        later = Message(Role.USER, (Text(self.LONG),), cache_up_to=True, cache_ttl=CacheTtl.ONE_HOUR)

        body, answer = await answered(simulator, ANTHROPIC, call(MODELS[ANTHROPIC], system, later))

        assert body["messages"][0]["content"][0]["cache_control"] == {"type": "ephemeral"}
        assert len(answer.notes) == 1
        assert "FIVE_MINUTES" in answer.notes[0]

    async def test_of_tools_and_of_an_hour_are_left_out_where_the_provider_caches_by_itself(
        self, simulator: RunningSimulator
    ) -> None:
        tool = replace(WEATHER, cache_up_to=True, cache_ttl=CacheTtl.ONE_HOUR)

        body, answer = await answered(simulator, OPENAI, call(MODELS[OPENAI], tools=(tool,)))

        assert "cache" not in str(body)
        assert [note.split()[0] for note in answer.notes] == ["The", "cacheTtl"]


class TestReasoningEffort:
    @pytest.mark.parametrize(
        ("model", "asked", "said"),
        [
            ("gpt-6-luna", MAX, "max"),
            ("gpt-6-luna", XHIGH, "xhigh"),
            ("gpt-6-luna", MINIMAL, "none"),
            ("gpt-5.4-mini", MAX, "xhigh"),
            ("gpt-5-mini", MINIMAL, "minimal"),
            ("gpt-5-mini", MAX, "high"),
            ("o3", MINIMAL, "low"),
            ("o3", XHIGH, "high"),
            ("o3", NONE, "low"),
            ("gpt-5-mini", NONE, "minimal"),
            ("gpt-4.1-mini", HIGH, None),
        ],
    )
    async def test_is_the_nearest_that_the_model_takes(
        self, simulator: RunningSimulator, model: str, asked: ReasoningEffort, said: str | None
    ) -> None:
        body, answer = await answered(simulator, OPENAI, call(model, reasoning_effort=asked, max_output_tokens=4000))

        assert body.get("reasoning_effort") == said
        if said == asked.value.lower():
            assert answer.notes == ()
        elif said is None:
            assert answer.notes == (f"reasoningEffort was left out: {model} does not take it.",)
        else:
            changed = f"reasoningEffort was changed from {asked.value} to {said.upper()}"
            assert answer.notes == (f"{changed}: {model} does not take {asked.value}.",)

    async def test_that_was_refused_is_not_asked_for_again(self, simulator: RunningSimulator) -> None:
        wanted = call("gpt-5-mini", reasoning_effort=MAX, max_output_tokens=4000)
        async with sent(simulator, OPENAI) as (recorder, provider):
            await provider.complete(wanted)
            first = [body["reasoning_effort"] for body in recorder.bodies]
            await provider.complete(wanted)

        assert first == ["max", "xhigh", "high"]
        assert [body["reasoning_effort"] for body in recorder.bodies[3:]] == ["high"]

    @pytest.mark.parametrize(
        ("model", "asked", "effort"),
        [
            ("claude-opus-5-5", XHIGH, "xhigh"),
            ("claude-opus-5-5", MAX, "max"),
            ("claude-opus-5-5", MINIMAL, None),
            ("claude-opus-4-6", XHIGH, "high"),
            ("claude-opus-4-6", MAX, "max"),
        ],
    )
    async def test_of_claude_is_the_nearest_that_the_model_takes(
        self, simulator: RunningSimulator, model: str, asked: ReasoningEffort, effort: str | None
    ) -> None:
        body, answer = await answered(simulator, ANTHROPIC, call(model, reasoning_effort=asked, max_output_tokens=4000))

        assert body.get("output_config", {}).get("effort") == effort
        assert body["thinking"]["type"] == ("disabled" if effort is None else "adaptive")
        assert len(answer.notes) == (effort != asked.value.lower())

    @pytest.mark.parametrize(("asked", "budget"), [(XHIGH, 32_768), (MAX, 39_999)])
    async def test_of_older_claude_models_is_a_budget_below_the_cap(
        self, simulator: RunningSimulator, asked: ReasoningEffort, budget: int
    ) -> None:
        wanted = call("claude-sonnet-4-0", reasoning_effort=asked, max_output_tokens=40_000)

        body, answer = await answered(simulator, ANTHROPIC, wanted)

        assert body["thinking"] == {"type": "enabled", "budget_tokens": budget}
        assert answer.notes == ()

    async def test_that_is_changed_is_refused_where_the_route_says_so(self, simulator: RunningSimulator) -> None:
        wanted = call("claude-opus-4-6", reasoning_effort=XHIGH, unsupported=UnsupportedPolicy.REFUSE)
        async with sent(simulator, ANTHROPIC) as (recorder, provider):
            with pytest.raises(Refused) as caught:
                await provider.complete(wanted)

        assert caught.value.reason == InvalidInput("claude-opus-4-6 does not take reasoningEffort XHIGH.", ("reasoningEffort",))
        assert recorder.bodies == []


class TestProviderOptions:
    async def test_of_the_providers_kind_are_sent_and_named(
        self, simulator: RunningSimulator, kind: ProviderKindName, model: str
    ) -> None:
        body, answer = await answered(simulator, kind, call(model, provider_options=OPTIONS))

        mine = OPTIONS[kind.value]
        assert fields(body, "metadata", "verbosity", "logit_bias", "top_k") == mine
        assert answer.notes == (f"Sent because providerOptions asks for it: {', '.join(sorted(mine))}.",)

    async def test_of_other_kinds_are_not_sent(self, simulator: RunningSimulator, kind: ProviderKindName, model: str) -> None:
        others = {name: options for name, options in OPTIONS.items() if name != kind.value}
        body, answer = await answered(simulator, kind, call(model, provider_options=others))

        assert (fields(body, "metadata", "verbosity", "logit_bias", "top_k"), answer.notes) == ({}, ())

    async def test_never_replace_a_field_of_ours(self, simulator: RunningSimulator, kind: ProviderKindName, model: str) -> None:
        options: dict[str, dict[str, Json]] = {kind.value: {"messages": []}}
        async with sent(simulator, kind) as (recorder, provider):
            with pytest.raises(Refused) as caught:
                await provider.complete(call(model, provider_options=options))

        assert isinstance(caught.value.reason, InvalidInput)
        assert caught.value.reason.path == ("providerOptions", kind.value, "messages")
        assert recorder.bodies == []

    async def test_a_top_k_goes_under_the_version_that_has_it(self, simulator: RunningSimulator) -> None:
        async with sent(simulator, ANTHROPIC) as (recorder, provider):
            answer = await provider.complete(call("claude-sonnet-4-0", provider_options={"anthropic": {"top_k": 5}}))

        assert answer.text
        assert (recorder.bodies[0]["top_k"], recorder.versions[0]) == (5, "2023-06-01")
