from __future__ import annotations

import asyncio
import base64
import json
from datetime import timedelta

import pytest
from graphql.utilities import coerce_input_value

from app.domain.errors import Refused
from app.domain.problems import InvalidInput
from app.domain.usage import Label
from app.gateway.completions import CacheMode, CachePolicy, CompletionRequest
from app.llm.messages import (
    AskedTier,
    CacheTtl,
    ImageUrl,
    InlineImage,
    InlinePdf,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    NamedTool,
    PdfUrl,
    ProviderState,
    ReasoningEffort,
    Role,
    Text,
    TextDocument,
    Tool,
    ToolCall,
    ToolChoiceMode,
    ToolResult,
)
from app.llm.routing import RoutingPreference, RoutingStrategy
from resolvers.inputs.completions import CompletionInput
from schema.build import build_schema
from tests.core_schema import core_schema
from tests.pdfs import base64_pdf

TYPE = core_schema(build_schema()).type_map["CompletionInput"]
PNG = base64.b64encode(b"\x89PNG").decode()
LARGE = "QUJD" * 600_000
STATE = {"provider": "w", "kind": "openai-compatible", "fields": '{"signature": "SIG"}'}
OTHER_STATE = {**STATE, "fields": '{"signature": "ANOTHER"}'}
ASK = {"role": "USER", "text": "Hi"}


def asked(**given: object) -> CompletionInput:
    """As a client's variables come in."""
    value = coerce_input_value({"messages": [ASK], **given}, TYPE)  # type: ignore[arg-type]  # it is an input type
    found: CompletionInput = TYPE.extensions["strawberry-definition"].from_input(CompletionInput, value, None)
    return found


def read(**given: object) -> CompletionRequest:
    return asked(**given).to_domain()


def message(**given: object) -> Message:
    return read(messages=[ASK, given]).messages[1]


def inline(data: str) -> dict[str, object]:
    return {"image": {"base64": {"data": data, "mediaType": "image/png"}}}


def refusal(**given: object) -> tuple[str, ...] | None:
    with pytest.raises(Refused) as caught:
        read(**given)
    assert isinstance(caught.value.reason, InvalidInput)
    assert caught.value.reason.message.endswith(".")
    return caught.value.reason.path


class TestAGoodInput:
    def test_what_is_left_out_is_left_to_the_route(self) -> None:
        assert read() == CompletionRequest(messages=(Message(Role.USER, (Text("Hi"),)),))

    def test_null_is_left_out(self) -> None:
        assert read(model=None, tools=None, labels=None, cache=None, timeoutMs=None, stop=None) == read()

    def test_figures_and_names_arrive(self) -> None:
        request = read(
            model="default",
            maxOutputTokens=100,
            minOutputTokens=10,
            temperature=0.5,
            topP=1,
            stop=["END"],
            seed=-3,
            routing={"strategy": "LEAST_COST", "fallback": False, "only": ["a"], "avoid": ["b/c"]},
            cache={"ttlSeconds": 60, "tags": ["t"]},
            agent="a-1",
            labels=[{"key": "team", "value": "search"}],
            timeoutMs=1500,
            idempotencyKey="once",
        )
        assert (request.max_output_tokens, request.min_output_tokens, request.temperature) == (100, 10, 0.5)
        assert request.routing == RoutingPreference(RoutingStrategy.LEAST_COST, False, ("a",), ("b/c",))
        assert request.cache == CachePolicy(CacheMode.USE, timedelta(minutes=1), ("t",))
        assert request.labels == (Label("team", "search"),)
        assert request.timeout == timedelta(seconds=1.5)
        assert (request.agent, request.idempotency_key, request.stop, request.seed) == ("a-1", "once", ("END",), -3)

    def test_images_come_by_address_and_inline(self) -> None:
        parts = [
            {"text": "What is it?"},
            {"image": {"url": "https://example.com/a.png"}},
            {"image": {"base64": {"data": PNG, "mediaType": "image/png"}}},
        ]
        assert message(role="USER", parts=parts, cacheUpTo=True) == Message(
            Role.USER,
            (Text("What is it?"), ImageUrl("https://example.com/a.png"), InlineImage(PNG, "image/png")),
            cache_up_to=True,
        )

    def test_a_large_image_comes_whole(self) -> None:
        assert message(role="USER", parts=[inline(LARGE + "QQ==")]).parts == (InlineImage(LARGE + "QQ==", "image/png"),)

    @pytest.mark.anyio
    @pytest.mark.parametrize(
        "messages", [[ASK] * 1000, [{"role": "USER", "parts": [{"image": {"url": "https://example.com/a.png"}}]}]]
    )
    async def test_a_large_conversation_is_read_beside_the_event_loop(self, messages: list[object]) -> None:
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count_turns())
        await asyncio.sleep(0)
        before = turns
        request = await asked(messages=messages).read()
        counting.cancel()

        assert request == read(messages=messages)
        assert turns > before

    def test_documents_come_by_address_inline_and_as_text(self) -> None:
        parts = [
            {"document": {"url": "https://example.com/a.pdf", "name": "a.pdf"}},
            {"document": {"base64": {"data": base64_pdf(3), "mediaType": "application/pdf"}}},
            {"document": {"base64": {"data": base64.b64encode("größer".encode()).decode(), "mediaType": "text/plain"}}},
            {"document": {"text": "All of it.", "name": "b.txt"}},
        ]
        read_as = (
            PdfUrl("https://example.com/a.pdf", "a.pdf"),
            InlinePdf(base64_pdf(3), 3),
            TextDocument("größer"),
            TextDocument("All of it.", "b.txt"),
        )
        assert message(role="USER", parts=parts).parts == read_as
        result = {"id": "1", "content": "Here", "parts": parts}
        assert message(role="TOOL", toolResult=result).tool_result == ToolResult("1", "Here", parts=read_as)

    def test_a_tools_result_may_have_parts_alone(self) -> None:
        result = {"id": "1", "parts": [inline(PNG)]}
        assert message(role="TOOL", toolResult=result).tool_result == ToolResult("1", "", parts=(InlineImage(PNG, "image/png"),))

    def test_a_tool_loop_goes_round(self) -> None:
        call = {"id": "1", "name": "now", "arguments": ""}
        request = read(
            messages=[
                ASK,
                {"role": "ASSISTANT", "toolCalls": [call], "reasoning": [{"opaque": "x"}]},
                {"role": "TOOL", "toolResult": {"id": "1", "content": "", "isError": True}},
            ],
            tools=[{"name": "now", "parameters": {"type": "object"}}],
            toolChoice={"name": "now"},
        )
        assert request.messages[1] == Message(
            Role.ASSISTANT, tool_calls=(ToolCall("1", "now", "{}"),), reasoning=[{"opaque": "x"}]
        )
        assert request.messages[2] == Message(Role.TOOL, tool_result=ToolResult("1", "", True))
        assert request.tool_choice == NamedTool("now")

    def test_the_answers_form_may_be_asked_for(self) -> None:
        assert read(responseFormat={"jsonObject": True}).response_format == JsonObjectFormat()
        schema = {"name": "total", "schema": {"type": "object"}}
        assert read(responseFormat={"jsonSchema": schema}).response_format == JsonSchemaFormat("total", {"type": "object"})

    def test_what_a_tool_and_a_schema_may_have(self) -> None:
        tool = {"name": "n", "parameters": {}, "strict": True, "cacheUpTo": True, "cacheTtl": "ONE_HOUR"}
        assert read(tools=[tool]).tools == (Tool("n", {}, None, True, True, CacheTtl.ONE_HOUR),)
        form = read(responseFormat={"jsonSchema": {"name": "n", "schema": {}, "strict": False}}).response_format
        assert form == JsonSchemaFormat("n", {}, False)

    def test_a_time_to_live_is_a_cache_mark_too(self) -> None:
        marked = message(role="USER", text="Hi", cacheTtl="FIVE_MINUTES")
        assert (marked.cache_up_to, marked.cache_ttl) == (True, CacheTtl.FIVE_MINUTES)
        assert read(tools=[{"name": "n", "parameters": {}, "cacheTtl": "ONE_HOUR"}]).tools[0].cache_up_to

    def test_tiers_efforts_and_parallel_calls_may_be_asked_for(self) -> None:
        request = read(serviceTier="FLEX", reasoningEffort="XHIGH", parallelToolCalls=False)
        assert (request.service_tier, request.reasoning_effort) == (AskedTier.FLEX, ReasoningEffort.XHIGH)
        assert request.parallel_tool_calls is False

    def test_a_mode_of_choice_needs_no_name(self) -> None:
        assert read(toolChoice={"mode": "NONE"}).tool_choice is ToolChoiceMode.NONE


def nested(levels: int) -> object:
    value: object = "x"
    for _ in range(levels):
        value = [value]
    return value


class TestWhatACompletionGaveOut:
    def test_may_come_back_in_fields_of_their_own(self) -> None:
        call = {"id": "1", "name": "n", "arguments": "", "providerState": STATE}
        found = message(role="ASSISTANT", toolCalls=[call], providerState=OTHER_STATE)
        assert found.provider_state == ProviderState("w", "openai-compatible", '{"signature": "ANOTHER"}')
        assert found.tool_calls[0].provider_state == ProviderState("w", "openai-compatible", '{"signature": "SIG"}')

    def test_may_come_back_within_the_reasoning(self) -> None:
        within = {"message": OTHER_STATE, "toolCalls": {"1": STATE, "2": OTHER_STATE}}
        calls: list[dict[str, object]] = [
            {"id": "1", "name": "n", "arguments": ""},
            {"id": "2", "name": "n", "arguments": "", "providerState": STATE},
        ]
        found = message(role="ASSISTANT", toolCalls=calls, reasoning={"format": "f", "providerState": within})
        apart = [{**each, "providerState": STATE} for each in calls]
        assert found == message(role="ASSISTANT", toolCalls=apart, providerState=OTHER_STATE, reasoning={"format": "f"})

    @pytest.mark.parametrize("large", [["thought " * 100_000], nested(200), list(range(50_000)), "x" * 1_000_000])
    def test_is_as_large_as_it_was(self, large: object) -> None:
        assert message(role="ASSISTANT", text="a", reasoning={"blocks": large}).reasoning == {"blocks": large}
        state = {**STATE, "fields": json.dumps({"blocks": large})}
        found = message(role="ASSISTANT", text="a", providerState=state).provider_state
        assert found is not None
        assert found.fields == state["fields"]

    @pytest.mark.parametrize("large", [{"x": "y" * 70_000}, {"x": nested(16)}, {"x": [0] * 40_000}, {"x": 2**64}])
    def test_alone_may_be_so_large(self, large: object) -> None:
        tools = [{"name": "a", "parameters": {}}, {"name": "b", "parameters": large}]
        assert refusal(tools=tools) == ("tools", "1", "parameters")
        schema = {"jsonSchema": {"name": "a", "schema": large}}
        assert refusal(responseFormat=schema) == ("responseFormat", "jsonSchema", "schema")


class TestMessages:
    def test_somebody_has_to_be_answered(self) -> None:
        assert refusal(messages=[{"role": "SYSTEM", "text": "Be brief."}]) == ("messages",)
        assert refusal(messages=[{"role": "ASSISTANT", "text": "Yes."}]) == ("messages",)

    def test_there_is_at_least_one(self) -> None:
        assert refusal(messages=[]) == ("messages",)

    @pytest.mark.parametrize(
        ("given", "path"),
        [
            ({"role": "USER"}, ()),
            ({"role": "USER", "text": "a", "parts": [{"text": "b"}]}, ()),
            ({"role": "TOOL", "text": "a", "toolResult": {"id": "1", "content": ""}}, ()),
            ({"role": "USER", "text": ""}, ("text",)),
            ({"role": "ASSISTANT", "text": ""}, ("text",)),
            ({"role": "USER", "parts": []}, ("parts",)),
            ({"role": "USER", "parts": [{"text": ""}]}, ("parts", "0", "text")),
            ({"role": "SYSTEM", "parts": [{"image": {"url": "https://a.b/c"}}]}, ("parts", "0", "image")),
            ({"role": "TOOL", "text": "a"}, ("toolResult",)),
            ({"role": "USER", "toolResult": {"id": "1", "content": ""}}, ("toolResult",)),
            ({"role": "TOOL", "toolResult": {"id": "", "content": ""}}, ("toolResult", "id")),
            ({"role": "TOOL", "toolResult": {"id": "1"}}, ("toolResult", "content")),
            ({"role": "TOOL", "toolResult": {"id": "1", "parts": []}}, ("toolResult", "parts")),
            ({"role": "TOOL", "toolResult": {"id": "1", "parts": [{"text": ""}]}}, ("toolResult", "parts", "0", "text")),
            ({"role": "SYSTEM", "parts": [{"document": {"text": "a"}}]}, ("parts", "0", "document")),
            ({"role": "ASSISTANT", "parts": [{"document": {"text": "a"}}]}, ("parts", "0", "document")),
            ({"role": "USER", "text": "a", "toolCalls": [{"id": "1", "name": "n", "arguments": "{}"}]}, ("toolCalls",)),
            ({"role": "ASSISTANT", "toolCalls": []}, ()),
            ({"role": "USER", "text": "a", "reasoning": []}, ("reasoning",)),
            ({"role": "USER", "text": "a", "providerState": STATE}, ("providerState",)),
            ({"role": "ASSISTANT", "text": "a", "providerState": {}}, ("providerState",)),
            ({"role": "ASSISTANT", "text": "a", "reasoning": {"providerState": {"message": 1}}}, ("reasoning",)),
            (
                {"role": "ASSISTANT", "toolCalls": [{"id": "1", "name": "n", "arguments": "", "providerState": "SIG"}]},
                ("toolCalls", "0", "providerState"),
            ),
        ],
    )
    def test_each_says_one_thing_in_one_way(self, given: dict[str, object], path: tuple[str, ...]) -> None:
        assert refusal(messages=[ASK, given]) == ("messages", "1", *path)

    @pytest.mark.parametrize("arguments", ["{", "[]", "1", "{} {}", "[" * 100_000, '{"a": [1,,2]}', " ", "Oslo"])
    def test_the_arguments_of_a_tool_call_are_taken_as_the_model_wrote_them(self, arguments: str) -> None:
        call = {"id": "1", "name": "n", "arguments": arguments}
        assert message(role="ASSISTANT", toolCalls=[call]).tool_calls[0].arguments == arguments

    def test_the_arguments_of_a_tool_call_have_a_length(self) -> None:
        call = {"id": "1", "name": "n", "arguments": f'{{"a": "{LARGE}"}}'}
        path = ("messages", "0", "toolCalls", "0", "arguments")
        assert refusal(messages=[{"role": "ASSISTANT", "toolCalls": [call]}]) == path

    @pytest.mark.parametrize(
        ("image", "path"),
        [
            ({"base64": {"data": "no!", "mediaType": "image/png"}}, ("base64", "data")),
            ({"base64": {"data": "QQ", "mediaType": "image/png"}}, ("base64", "data")),
            ({"base64": {"data": "é", "mediaType": "image/png"}}, ("base64", "data")),
            ({"base64": {"data": LARGE + "no!", "mediaType": "image/png"}}, ("base64", "data")),
            ({"base64": {"data": LARGE[:-4] + "QQ==" + "QUJD", "mediaType": "image/png"}}, ("base64", "data")),
            ({"base64": {"data": "", "mediaType": "image/png"}}, ("base64", "data")),
            ({"base64": {"data": PNG, "mediaType": "image/svg+xml"}}, ("base64", "mediaType")),
            ({"url": "file:///etc/passwd"}, ("url",)),
            ({"url": "data:image/png;base64,QQ=="}, ("url",)),
            ({"url": "https://"}, ("url",)),
            ({"url": "https://[::1"}, ("url",)),
            ({"url": ""}, ("url",)),
        ],
    )
    def test_an_image_is_one(self, image: dict[str, object], path: tuple[str, ...]) -> None:
        given = {"role": "USER", "parts": [{"image": image}]}
        assert refusal(messages=[given]) == ("messages", "0", "parts", "0", "image", *path)

    @pytest.mark.parametrize(
        ("document", "path"),
        [
            ({}, ()),
            ({"name": "a.pdf"}, ()),
            ({"text": "a", "url": "https://example.com/a.pdf"}, ()),
            ({"text": ""}, ("text",)),
            ({"text": "a", "name": ""}, ("name",)),
            ({"text": "a", "name": "n" * 201}, ("name",)),
            ({"url": "file:///etc/passwd"}, ("url",)),
            ({"url": "data:application/pdf;base64,QQ=="}, ("url",)),
            ({"base64": {"data": "no!", "mediaType": "application/pdf"}}, ("base64", "data")),
            ({"base64": {"data": LARGE + "no!", "mediaType": "application/pdf"}}, ("base64", "data")),
            ({"base64": {"data": "", "mediaType": "application/pdf"}}, ("base64", "data")),
            ({"base64": {"data": PNG, "mediaType": "application/pdf"}}, ("base64", "data")),
            ({"base64": {"data": base64_pdf(), "mediaType": "image/png"}}, ("base64", "mediaType")),
            ({"base64": {"data": base64_pdf(), "mediaType": "application/msword"}}, ("base64", "mediaType")),
            ({"base64": {"data": "gICA", "mediaType": "text/plain"}}, ("base64", "data")),
            ({"base64": {"data": "AAAA", "mediaType": "text/plain"}}, ("base64", "data")),
        ],
    )
    def test_a_document_is_one(self, document: dict[str, object], path: tuple[str, ...]) -> None:
        parts = [{"text": "a"}, {"document": document}]
        where = ("parts", "1", "document", *path)
        assert refusal(messages=[{"role": "USER", "parts": parts}]) == ("messages", "0", *where)
        given = {"role": "TOOL", "toolResult": {"id": "1", "parts": parts}}
        assert refusal(messages=[given]) == ("messages", "0", "toolResult", *where)


class TestTexts:
    @pytest.mark.parametrize("text", ["a\0b", "\ud800"])
    @pytest.mark.parametrize(
        ("name", "wrap", "path"),
        [
            ("messages", lambda text: [{"role": "USER", "parts": [{"text": text}]}], ("messages", "0", "parts", "0", "text")),
            (
                "messages",
                lambda text: [{"role": "TOOL", "toolResult": {"id": "1", "content": text}}],
                ("messages", "0", "toolResult", "content"),
            ),
            ("model", lambda text: text, ("model",)),
            ("agent", lambda text: text, ("agent",)),
            ("idempotencyKey", lambda text: text, ("idempotencyKey",)),
            ("stop", lambda text: ["ok", text], ("stop", "1")),
            ("labels", lambda text: [{"key": "k", "value": text}], ("labels", "0", "value")),
            ("routing", lambda text: {"only": [text]}, ("routing", "only", "0")),
            ("tools", lambda text: [{"name": "n", "description": text, "parameters": {}}], ("tools", "0", "description")),
        ],
    )
    def test_no_text_may_hold_what_cannot_be_stored(self, text: str, name: str, wrap: object, path: tuple[str, ...]) -> None:
        assert callable(wrap)
        assert refusal(**{name: wrap(text)}) == path


class TestFigures:
    @pytest.mark.parametrize(
        ("given", "path"),
        [
            ({"maxOutputTokens": 0}, ("maxOutputTokens",)),
            ({"maxOutputTokens": -1}, ("maxOutputTokens",)),
            ({"minOutputTokens": 0}, ("minOutputTokens",)),
            ({"maxOutputTokens": 10, "minOutputTokens": 11}, ("minOutputTokens",)),
            ({"temperature": -0.1}, ("temperature",)),
            ({"temperature": 2.1}, ("temperature",)),
            ({"topP": 1.1}, ("topP",)),
            ({"timeoutMs": 0}, ("timeoutMs",)),
            ({"timeoutMs": 3_600_001}, ("timeoutMs",)),
            ({"stop": ["a", "b", "c", "d", "e"]}, ("stop",)),
            ({"stop": [""]}, ("stop", "0")),
            ({"model": ""}, ("model",)),
            ({"agent": "a" * 129}, ("agent",)),
            ({"idempotencyKey": ""}, ("idempotencyKey",)),
            ({"idempotencyKey": "k" * 256}, ("idempotencyKey",)),
            ({"cache": {"ttlSeconds": 0}}, ("cache", "ttlSeconds")),
            ({"cache": {"tags": ["t"] * 21}}, ("cache", "tags")),
            ({"routing": {"avoid": [""]}}, ("routing", "avoid", "0")),
        ],
    )
    def test_each_has_its_range(self, given: dict[str, object], path: tuple[str, ...]) -> None:
        assert refusal(**given) == path


class TestLabels:
    @pytest.mark.parametrize(
        ("labels", "path"),
        [
            ([{"key": "", "value": "v"}], ("labels", "0", "key")),
            ([{"key": "k" * 65, "value": "v"}], ("labels", "0", "key")),
            ([{"key": "k", "value": ""}], ("labels", "0", "value")),
            ([{"key": "k", "value": "v" * 257}], ("labels", "0", "value")),
            ([{"key": "k", "value": "v"}, {"key": "k", "value": "w"}], ("labels",)),
            ([{"key": f"k{n}", "value": "v"} for n in range(17)], ("labels",)),
        ],
    )
    def test_each_has_a_key_of_its_own(self, labels: list[object], path: tuple[str, ...]) -> None:
        assert refusal(labels=labels) == path


class TestTools:
    @pytest.mark.parametrize(
        ("given", "path"),
        [
            ({"tools": [{"name": "no spaces", "parameters": {}}]}, ("tools", "0", "name")),
            ({"tools": [{"name": "n", "parameters": []}]}, ("tools", "0", "parameters")),
            ({"tools": [{"name": "n", "parameters": {}}] * 2}, ("tools",)),
            ({"toolChoice": {"name": "n"}}, ("toolChoice", "name")),
            ({"toolChoice": {"mode": "REQUIRED"}}, ("toolChoice", "mode")),
            ({"responseFormat": {"jsonObject": False}}, ("responseFormat", "jsonObject")),
            ({"responseFormat": {"jsonSchema": {"name": "", "schema": {}}}}, ("responseFormat", "jsonSchema", "name")),
            ({"responseFormat": {"jsonSchema": {"name": "n", "schema": 1}}}, ("responseFormat", "jsonSchema", "schema")),
        ],
    )
    def test_each_is_well_formed(self, given: dict[str, object], path: tuple[str, ...]) -> None:
        assert refusal(**given) == path
