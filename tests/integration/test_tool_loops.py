"""A tool loop through the real server: what a provider puts beside its protocol comes back to it, and to no other."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from tests.integration.recording_provider import RecordingProvider, sse, start_recording_provider
from tests.servers import RunningServer, start_server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

CONFIGURATION = """
[[providers]]
name = "{name}"
kind = "{kind}"
base_url = "{address}"
api_keys = [{{ env = "LOOP_KEY" }}]
[[providers.models]]
name = "{model}"
price = {{ input_usd = 1, output_usd = 2 }}
"""
FIELDS = "id status text reasoning providerState toolCalls { id name arguments providerState } finishReason notes"
CREATE = f"""mutation($input: CompletionInput!) {{ completionCreate(input: $input) {{ __typename
  ... on Completion {{ {FIELDS} }} ... on InvalidInput {{ path }} ... on Problem {{ code message }} }} }}"""
STREAM = f"""subscription($input: CompletionInput!) {{ completionStream(input: $input) {{ __typename
  ... on CompletionFinished {{ completion {{ {FIELDS} }} }}
  ... on CompletionFailed {{ problem {{ ... on Problem {{ code message }} }} }} }} }}"""
EVENTS = f"""subscription($id: ID!) {{ completionEvents(id: $id) {{ __typename
  ... on CompletionFinished {{ completion {{ {FIELDS} }} }} }} }}"""
AGAIN = f"query($id: ID!) {{ completion(id: $id) {{ {FIELDS} }} }}"
SIGNED = {"extra_content": {"google": {"thought_signature": "SIG"}}}
THOUGHT = [{"type": "reasoning.text", "text": "thought " * 9000, "signature": "SIG", "format": "f", "index": 0}]
FUNCTION = {"name": "weather", "arguments": '{"city": "Oslo"}'}
OPENAI_MEMBERS: dict[str, dict[str, Any]] = {
    "extra content of a call": {"tool_calls": [{"id": "a", "type": "function", "function": FUNCTION, **SIGNED}]},
    "a signature of a call": {"tool_calls": [{"id": "a", "function": FUNCTION, "thought_signature": "SIG"}]},
    "a signature within the function": {"tool_calls": [{"id": "a", "function": {**FUNCTION, "thought_signature": "SIG"}}]},
    "two calls, one signed": {
        "tool_calls": [
            {"id": "a", "function": FUNCTION, **SIGNED},
            {"id": "b", "function": {"name": "weather", "arguments": '{"city": "Rome"'}},
        ]
    },
    "extra content of the message": {"content": "Wait.", "tool_calls": [{"id": "a", "function": FUNCTION}], **SIGNED},
    "reasoning details": {"reasoning": "hm", "reasoning_details": THOUGHT, "tool_calls": [{"id": "a", "function": FUNCTION}]},
    "reasoning content": {"reasoning_content": "SIG " * 20_000, "tool_calls": [{"id": "a", "function": FUNCTION}]},
    "an id that is a signature": {"tool_calls": [{"id": "SIG" * 2000, "function": FUNCTION}]},
    "what is nested deeply": {
        "tool_calls": [{"id": "a", "function": FUNCTION, "deep": json.loads("[" * 100 + '"SIG"' + "]" * 100)}]
    },
    "what is long": {
        "tool_calls": [{"id": "a", "function": FUNCTION}],
        "opaque": [{"data": f"SIG{number}"} for number in range(9000)],
    },
}
ANTHROPIC_CALL = {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Oslo"}}
ANTHROPIC_MEMBERS: dict[str, list[dict[str, Any]]] = {
    "a signed thought": [{"type": "thinking", "thinking": "thought " * 9000, "signature": "SIG"}, ANTHROPIC_CALL],
    "a hidden thought": [{"type": "redacted_thinking", "data": "SIG" * 30_000}, ANTHROPIC_CALL],
    "the caller of a call": [{"type": "text", "text": "Wait."}, {**ANTHROPIC_CALL, "caller": {"type": "SIG"}}],
    "a signed text": [{"type": "text", "text": "Wait.", "thought_signature": "SIG"}, ANTHROPIC_CALL],
    "a signed call": [{**ANTHROPIC_CALL, "signature": "SIG"}, {**ANTHROPIC_CALL, "id": "b", "signature": "SIG2"}],
    "the provider's own tool": [
        {"type": "thinking", "thinking": "hm", "signature": "SIG"},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"encrypted_content": "SIG2"}]},
        {"type": "thinking", "thinking": "so", "signature": "SIG3"},
        ANTHROPIC_CALL,
    ],
}


@dataclass
class Loop:
    """`provider` answers the model of each configured provider of both kinds; each provider has one model of its own."""

    provider: RecordingProvider
    server: RunningServer
    session: aiohttp.ClientSession

    async def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of the field; of a stream, of its last event."""
        accept = "text/event-stream" if query.startswith("subscription") else "application/json"
        body = {"query": query, "variables": variables}
        async with self.session.post(self.server.url, json=body, headers={"Accept": accept}) as response:
            raw = await response.text()
        lines = [line.removeprefix("data:") for line in raw.splitlines() if line.startswith("data:") and line[5:].strip()]
        answer = json.loads(lines[-1] if lines else raw)
        assert not answer.get("errors"), answer["errors"]
        [found] = answer["data"].values()
        return dict(found.get("completion") or found)

    async def first(self, model: str, *, streamed: bool) -> dict[str, Any]:
        asked = {"model": model, "messages": [{"role": "USER", "text": "Weather?"}], "maxOutputTokens": 100}
        return await self.ask(STREAM if streamed else CREATE, input=asked)

    async def second(self, model: str, turn: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The answer to a conversation with this turn of the model, and what the provider was asked."""
        results = [{"role": "TOOL", "toolResult": {"id": call["id"], "content": "rain"}} for call in turn["toolCalls"]]
        messages = [{"role": "USER", "text": "Weather?"}, {"role": "ASSISTANT", **turn}, *results]
        answer = await self.ask(CREATE, input={"model": model, "messages": messages, "maxOutputTokens": 100})
        return answer, self.provider.asked[-1]


@pytest.fixture(scope="module")
def provider() -> Iterator[RecordingProvider]:
    with start_recording_provider() as running:
        yield running


@pytest.fixture(scope="module")
def server(provider: RecordingProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("loops")
    kinds = {"openai-compatible": f"{provider.address}/v1", "anthropic": provider.address}
    configured = [
        CONFIGURATION.format(name=f"{kind}-{number}", kind=kind, address=address, model=f"{kind}-{number}")
        for kind, address in kinds.items()
        for number in (1, 2)
    ]
    (folder / "greenlang.toml").write_text("".join(configured))
    configuration = ("--config", str(folder / "greenlang.toml"), "--workers", "2")
    with start_server(folder / "data", *configuration, environ={"LOOP_KEY": "k"}) as running:
        yield running


@pytest.fixture
async def loop(provider: RecordingProvider, server: RunningServer) -> AsyncIterator[Loop]:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {server.key}"}) as session:
        yield Loop(provider, server, session)


def openai_answer(message: dict[str, Any], *, streamed: bool) -> bytes:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    if not streamed:
        choice = {"index": 0, "message": {"role": "assistant", "content": None, **message}, "finish_reason": "tool_calls"}
        return json.dumps({"choices": [choice], "usage": usage}).encode()
    calls = [{**call, "index": 0} for call in message.get("tool_calls", ())]
    deltas = [{name: value} for name, value in message.items() if name != "tool_calls"] + [
        {"tool_calls": [call]} for call in calls
    ]
    chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    return sse(
        [*chunks, {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}, {"choices": [], "usage": usage}]
    )


def anthropic_answer(blocks: list[dict[str, Any]], *, streamed: bool) -> bytes:
    usage = {"input_tokens": 10, "output_tokens": 5}
    if not streamed:
        return json.dumps({"type": "message", "content": blocks, "stop_reason": "tool_use", "usage": usage}).encode()
    events: list[object] = [{"type": "message_start", "message": {"usage": {"input_tokens": 10, "output_tokens": 1}}}]
    for index, block in enumerate(blocks):
        begun, deltas = begin(block)
        events.append({"type": "content_block_start", "index": index, "content_block": begun})
        events += ({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas)
        events.append({"type": "content_block_stop", "index": index})
    end = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 5}}
    return sse([*events, end, {"type": "message_stop"}])


def begin(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block's start, and its deltas."""
    if block["type"] == "text":
        return {**block, "text": ""}, [{"type": "text_delta", "text": block["text"]}]
    if block["type"] == "thinking":
        signed = {"type": "signature_delta", "signature": block["signature"]}
        return {**block, "thinking": "", "signature": ""}, [{"type": "thinking_delta", "thinking": block["thinking"]}, signed]
    if "input" in block:
        signatures = [{"type": "signature_delta", "signature": block["signature"]}] if "signature" in block else []
        begun = {name: value for name, value in block.items() if name != "signature"}
        return {**begun, "input": {}}, [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}, *signatures]
    return block, []


async def check_kept(loop: Loop, first: dict[str, Any], *, streamed: bool) -> None:
    """Each process, asked some times, shows the completion as it was."""
    shown = {name: value for name, value in first.items() if name != "__typename"}
    for _ in range(3):
        assert await loop.ask(AGAIN, id=first["id"]) == shown
        if streamed:
            assert await loop.ask(EVENTS, id=first["id"]) == shown


def turns(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The answer as clients give it back: with everything; with fields of their own alone; as one that knows only reasoning."""
    calls = answer["toolCalls"]
    plain = [{name: call[name] for name in ("id", "name", "arguments")} for call in calls]
    text = {"text": answer["text"]} if answer["text"] else {}
    return [
        {**text, "toolCalls": calls, "reasoning": answer["reasoning"], "providerState": answer["providerState"]},
        {**text, "toolCalls": plain, "reasoning": answer["reasoning"]},
    ]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
class TestAToolLoop:
    @pytest.mark.parametrize("message", OPENAI_MEMBERS.values(), ids=OPENAI_MEMBERS)
    async def test_gives_a_compatible_server_its_message_back(
        self, loop: Loop, message: dict[str, Any], *, streamed: bool
    ) -> None:
        loop.provider.answers["openai-compatible-1"] = openai_answer(message, streamed=streamed)
        first = await loop.first("openai-compatible-1/openai-compatible-1", streamed=streamed)
        await check_kept(loop, first, streamed=streamed)
        for turn in turns(first):
            _, asked = await loop.second("openai-compatible-1/openai-compatible-1", turn)
            wanted = [{"type": "function", **call} for call in message["tool_calls"]]
            assert asked["messages"][1] == {"role": "assistant", "content": None, **message, "tool_calls": wanted}

    @pytest.mark.parametrize("blocks", ANTHROPIC_MEMBERS.values(), ids=ANTHROPIC_MEMBERS)
    async def test_gives_anthropic_its_blocks_back(self, loop: Loop, blocks: list[dict[str, Any]], *, streamed: bool) -> None:
        loop.provider.answers["anthropic-1"] = anthropic_answer(blocks, streamed=streamed)
        first = await loop.first("anthropic-1/anthropic-1", streamed=streamed)
        await check_kept(loop, first, streamed=streamed)
        for turn in turns(first):
            _, asked = await loop.second("anthropic-1/anthropic-1", turn)
            assert asked["messages"][1]["content"] == blocks

    @pytest.mark.parametrize("other", ["openai-compatible-2", "anthropic-2"])
    async def test_gives_another_provider_the_message_without_it(self, loop: Loop, other: str, *, streamed: bool) -> None:
        member = OPENAI_MEMBERS["two calls, one signed"]
        loop.provider.answers["openai-compatible-1"] = openai_answer({**member, **SIGNED}, streamed=streamed)
        loop.provider.answers["openai-compatible-2"] = openai_answer(member, streamed=False)
        loop.provider.answers["anthropic-2"] = anthropic_answer([ANTHROPIC_CALL], streamed=False)
        first = await loop.first("openai-compatible-1/openai-compatible-1", streamed=streamed)
        for turn in turns(first):
            answer, asked = await loop.second(f"{other}/{other}", turn)
            assert "SIG" not in json.dumps(asked)
            assert "Provider state that another provider made was not sent." in answer["notes"]
            assert [call["id"] for call in first["toolCalls"]] == ["a", "b"]

    async def test_goes_on_though_arguments_are_no_json(self, loop: Loop, *, streamed: bool) -> None:
        broken = '{"city": "Oslo"'
        member = {"tool_calls": [{"id": "a", "function": {"name": "weather", "arguments": broken}}]}
        for name in ("openai-compatible-1", "openai-compatible-2"):
            loop.provider.answers[name] = openai_answer(member, streamed=streamed)
        loop.provider.answers["anthropic-1"] = anthropic_answer([ANTHROPIC_CALL], streamed=False)
        first = await loop.first("openai-compatible-1/openai-compatible-1", streamed=streamed)
        assert first["toolCalls"][0]["arguments"] == broken
        _, asked = await loop.second("openai-compatible-2/openai-compatible-2", turns(first)[0])
        assert asked["messages"][1]["tool_calls"][0]["function"]["arguments"] == broken
        answer, asked = await loop.second("anthropic-1/anthropic-1", turns(first)[0])
        assert asked["messages"][1]["content"][0]["input"] == {"INVALID_JSON": broken}
        assert any("INVALID_JSON" in note for note in answer["notes"])


class TestAnIdempotencyKey:
    async def test_holds_for_the_same_state_in_either_form_and_for_no_other(self, loop: Loop) -> None:
        target = "openai-compatible-1/openai-compatible-1"
        loop.provider.answers["openai-compatible-1"] = openai_answer(OPENAI_MEMBERS["extra content of a call"], streamed=False)
        first = await loop.first(target, streamed=False)
        apart, within = turns(first)
        apart = {name: value for name, value in apart.items() if name != "reasoning"}
        other = json.loads(json.dumps(apart).replace("SIG", "ANOTHER"))
        assert other != apart
        results = [{"role": "TOOL", "toolResult": {"id": "a", "content": "rain"}}]
        answers = [
            await loop.ask(
                CREATE,
                input={
                    "model": target,
                    "messages": [{"role": "USER", "text": "Weather?"}, {"role": "ASSISTANT", **turn}, *results],
                    "maxOutputTokens": 100,
                    "idempotencyKey": "turn-2",
                },
            )
            for turn in (apart, within, other)
        ]
        assert answers[0]["id"] == answers[1]["id"]
        assert answers[2]["code"] == "IDEMPOTENCY_MISMATCH"
