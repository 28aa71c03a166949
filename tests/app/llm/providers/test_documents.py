"""Documents and tool results with media, through the real SDKs to the simulator: what arrives means what was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import TypeAdapter

from app.domain.errors import RefusedByTarget
from app.domain.problems import InvalidInput
from app.llm.messages import InlineImage, InlinePdf, Message, Part, PdfUrl, Role, Text, TextDocument, ToolCall, ToolResult
from app.llm.providers.adapter import Adapter
from app.settings import ProviderKindName
from tests.app.llm.calls import ANTHROPIC, OPENAI, WEATHER, adapter, call, parts_of, streamed_text, user
from tests.pdfs import base64_pdf
from tests.recorder import Recorder, recording

pytestmark = pytest.mark.anyio
PDF, PNG = base64_pdf(2), "iVBORw0KGgo="
PARAMS: dict[ProviderKindName, TypeAdapter[Any]] = {
    ANTHROPIC: TypeAdapter(MessageCreateParamsNonStreaming),
    OPENAI: TypeAdapter(CompletionCreateParamsNonStreaming),
}


@pytest.fixture
async def recorder(base_url: str, kind: ProviderKindName) -> AsyncIterator[Recorder]:
    server = base_url.removesuffix("/v1")
    async with recording(server) as made:
        made.url += base_url.removeprefix(server)
        yield made


@pytest.fixture
async def recorded(recorder: Recorder, kind: ProviderKindName) -> AsyncIterator[Adapter]:
    made = adapter(kind, recorder.url)
    yield made
    await made.close()


def last(recorder: Recorder, kind: ProviderKindName) -> dict[str, Any]:
    """The last body, which the SDK's own type accepts."""
    body = recorder.bodies[-1]
    PARAMS[kind].validate_python({name: value for name, value in body.items() if name not in {"stream", "stream_options"}})
    return body


def with_result(*parts: Part, content: str = "", is_error: bool = False) -> tuple[Message, ...]:
    calls = (ToolCall("a", "weather", '{"city": "Basel"}'), ToolCall("b", "weather", '{"city": "Chur"}'))
    return (
        user("Compare"),
        Message(Role.ASSISTANT, tool_calls=calls),
        Message(Role.TOOL, tool_result=ToolResult("a", content, is_error, parts)),
        Message(Role.TOOL, tool_result=ToolResult("b", "warm")),
    )


class TestAPdf:
    async def test_arrives_whole_with_its_name(
        self, recorded: Adapter, recorder: Recorder, kind: ProviderKindName, model: str
    ) -> None:
        message = Message(Role.USER, (Text("What is in it?"), InlinePdf(PDF, 2, "report.pdf")))

        answer = await recorded.complete(call(model, message))
        streamed = await parts_of(recorded, call(model, message))

        assert answer.text == streamed_text(streamed)
        assert answer.notes == ()
        assert answer.usage.input_tokens > 2 * 2500
        block = last(recorder, kind)["messages"][0]["content"][1]
        if kind is ANTHROPIC:
            source = {"type": "base64", "media_type": "application/pdf", "data": PDF}
            assert block == {"type": "document", "source": source, "title": "report.pdf"}
        else:
            file = {"filename": "report.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}
            assert block == {"type": "file", "file": file}

    async def test_without_a_name_is_taken_too(self, recorded: Adapter, model: str) -> None:
        assert (await recorded.complete(call(model, Message(Role.USER, (Text("?"), InlinePdf(PDF)))))).text

    async def test_at_an_address_is_passed_on_or_left_to_another_target(
        self, recorded: Adapter, recorder: Recorder, kind: ProviderKindName, model: str
    ) -> None:
        message = Message(Role.USER, (Text("?"), PdfUrl("https://example.com/a.pdf", "a.pdf")))
        if kind is ANTHROPIC:
            await recorded.complete(call(model, message))
            source = {"type": "url", "url": "https://example.com/a.pdf"}
            assert last(recorder, kind)["messages"][0]["content"][1]["source"] == source
            return

        with pytest.raises(RefusedByTarget) as caught:
            await recorded.complete(call(model, message))

        assert isinstance(caught.value.reason, InvalidInput)
        assert caught.value.reason.path == ("messages", "0", "parts", "1", "document", "url")
        assert recorder.bodies == []


class TestATextDocument:
    async def test_arrives_whole_with_its_name(
        self, recorded: Adapter, recorder: Recorder, kind: ProviderKindName, model: str
    ) -> None:
        answer = await recorded.complete(call(model, Message(Role.USER, (TextDocument("one\ntwo", "a.txt"), Text("Sum up")))))

        block = last(recorder, kind)["messages"][0]["content"][0]
        if kind is ANTHROPIC:
            assert answer.notes == ()
            source = {"type": "text", "media_type": "text/plain", "data": "one\ntwo"}
            assert block == {"type": "document", "source": source, "title": "a.txt"}
        else:
            assert answer.notes == ("A text document was sent as text: the provider takes only PDFs as documents.",)
            assert block == {"type": "text", "text": "a.txt:\n\none\ntwo"}


class TestAToolResult:
    async def test_with_media_is_answered(
        self, recorded: Adapter, recorder: Recorder, kind: ProviderKindName, model: str
    ) -> None:
        messages = with_result(Text("see"), InlineImage(PNG, "image/png"), InlinePdf(PDF), content="cold")

        answer = await recorded.complete(call(model, *messages, tools=(WEATHER,)))

        assert answer.text
        sent = last(recorder, kind)["messages"]
        if kind is ANTHROPIC:
            assert answer.notes == ()
            result, other = sent[-1]["content"]
            assert [block["type"] for block in result["content"]] == ["text", "text", "image", "document"]
            assert (result["tool_use_id"], other["tool_use_id"], other["content"]) == ("a", "b", "warm")
        else:
            assert len(answer.notes) == 1
            assert [each["role"] for each in sent[-3:]] == ["tool", "tool", "user"]
            assert sent[-3]["content"] == "cold\n\nsee\n\nMore of this result follows in the next user message."
            assert [block["type"] for block in sent[-1]["content"]] == ["text", "image_url", "file"]
            assert "tool call a" in sent[-1]["content"][0]["text"]

    async def test_with_text_parts_alone_stays_in_its_message(
        self, recorded: Adapter, recorder: Recorder, kind: ProviderKindName, model: str
    ) -> None:
        answer = await recorded.complete(call(model, *with_result(Text("see"), Text("this"), is_error=True), tools=(WEATHER,)))

        assert answer.notes == ()
        sent = last(recorder, kind)["messages"]
        if kind is ANTHROPIC:
            result = sent[-1]["content"][0]
            assert (result["is_error"], [block["text"] for block in result["content"]]) == (True, ["see", "this"])
        else:
            assert sent[-2] == {"role": "tool", "tool_call_id": "a", "content": "Error: see\n\nthis"}
