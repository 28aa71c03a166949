"""A tool that must be called: sent as it is asked for, unless the model cannot be forced while it reasons."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from app.domain.errors import ProviderError, Refused
from app.llm.messages import Answer, ModelCall, NamedTool, ReasoningEffort, ToolChoice, ToolChoiceMode, UnsupportedPolicy
from app.llm.providers.adapter import Adapter
from app.settings import ProviderKindName
from tests.app.llm.calls import ANTHROPIC, COMPATIBLE, OPENAI, WEATHER, adapter, call, end_of, parts_of

pytestmark = pytest.mark.anyio
CHANGED = "toolChoice was changed to AUTO: m cannot be made to call a tool while it reasons."
FORCED: tuple[ToolChoice, ...] = (ToolChoiceMode.REQUIRED, NamedTool("weather"))
REFUSALS = (
    (ANTHROPIC, "Thinking may not be enabled when tool_choice forces tool use."),
    (ANTHROPIC, "tool_choice: `any` is not supported for this model"),
    (COMPATIBLE, "tool_choice 'required' is incompatible with thinking enabled"),
    (COMPATIBLE, "Thinking mode does not support this tool_choice"),
    (COMPATIBLE, "The tool_choice parameter does not support being set to required or object in thinking mode"),
    (OPENAI, "Unsupported parameter: 'tool_choice' is not supported with this model."),
)


@dataclass
class Model:
    """Refuses a forced tool if it has a `refusal`; else calls the tools named in `calls`."""

    kind: ProviderKindName
    refusal: str | None = None
    calls: tuple[str, ...] = ()
    choices: list[Any] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json()
        choice = body.get("tool_choice")
        self.choices.append(choice)
        if self.refusal is not None and choice not in (None, "auto", {"type": "auto"}):
            return web.json_response({"error": {"type": "invalid_request_error", "message": self.refusal}}, status=400)
        usage = {"input_tokens": 10, "output_tokens": 5, "prompt_tokens": 10, "completion_tokens": 5}
        if self.kind is ANTHROPIC:
            blocks = [{"type": "tool_use", "id": name, "name": name, "input": {}} for name in self.calls]
            return web.json_response(
                {"content": blocks or [{"type": "text", "text": "No."}], "stop_reason": "end_turn", "usage": usage}
            )
        calls = [{"id": name, "function": {"name": name, "arguments": "{}"}} for name in self.calls]
        choices = [{"message": {"content": "No.", "tool_calls": calls}, "finish_reason": "stop"}]
        return web.json_response({"choices": choices, "usage": usage})


@asynccontextmanager
async def serving(model: Model) -> AsyncIterator[Adapter]:
    application = web.Application()
    application.router.add_post("/{path:.*}", model.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    provider = adapter(model.kind, f"http://{host}:{port}", simulated=True)
    try:
        yield provider
    finally:
        await provider.close()
        await runner.cleanup()


async def ask(provider: Adapter, wanted: ModelCall, *, streamed: bool) -> Answer:
    return end_of(await parts_of(provider, wanted)).answer if streamed else await provider.complete(wanted)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("choice", FORCED, ids=["any tool", "one tool"])
class TestAModelThatCannotBeForced:
    @pytest.mark.parametrize(("kind", "refusal"), REFUSALS)
    async def test_is_left_the_choice_and_remembered(
        self, kind: ProviderKindName, refusal: str, choice: ToolChoice, *, streamed: bool
    ) -> None:
        model = Model(kind, refusal, calls=("weather",))
        async with serving(model) as provider:
            answers = [await ask(provider, call("m", tools=(WEATHER,), tool_choice=choice), streamed=streamed) for _ in range(2)]
        assert [answer.notes for answer in answers] == [(CHANGED,), (CHANGED,)]
        assert [each in (None, "auto", {"type": "auto"}) for each in model.choices] == [False, True, True]

    async def test_is_known_if_a_claude_model_thinks(self, choice: ToolChoice, *, streamed: bool) -> None:
        model = Model(ANTHROPIC)
        async with serving(model) as provider:
            wanted = call("m", tools=(WEATHER,), tool_choice=choice, reasoning_effort=ReasoningEffort.HIGH)
            answer = await ask(provider, wanted, streamed=streamed)
        assert model.choices == [{"type": "auto"}]
        assert (answer.notes[0], len(answer.notes)) == (CHANGED, 2)

    async def test_is_not_asked_if_the_route_refuses_what_it_does_not_take(self, choice: ToolChoice, *, streamed: bool) -> None:
        model = Model(ANTHROPIC)
        wanted = call(
            "m",
            tools=(WEATHER,),
            tool_choice=choice,
            reasoning_effort=ReasoningEffort.HIGH,
            unsupported=UnsupportedPolicy.REFUSE,
        )
        async with serving(model) as provider:
            with pytest.raises(Refused):
                await ask(provider, wanted, streamed=streamed)
        assert model.choices == []


@pytest.mark.parametrize("kind", [ANTHROPIC, COMPATIBLE])
class TestAForcedTool:
    @pytest.mark.parametrize("effort", [None, ReasoningEffort.NONE])
    @pytest.mark.parametrize("choice", FORCED)
    async def test_is_sent_as_asked_if_the_model_does_not_think(
        self, kind: ProviderKindName, choice: ToolChoice, effort: ReasoningEffort | None
    ) -> None:
        model = Model(kind, calls=("weather",))
        async with serving(model) as provider:
            wanted = call("m", tools=(WEATHER,), tool_choice=choice, reasoning_effort=effort)
            assert (await provider.complete(wanted)).notes == ()
        assert model.choices != [{"type": "auto"}]

    @pytest.mark.parametrize(
        ("choice", "calls", "note"),
        [
            (ToolChoiceMode.REQUIRED, (), "The model called no tool, although toolChoice is REQUIRED."),
            (NamedTool("weather"), (), "The model did not call the tool weather that toolChoice names."),
            (NamedTool("weather"), ("time",), "The model did not call the tool weather that toolChoice names."),
        ],
    )
    async def test_that_was_not_called_is_noted(
        self, kind: ProviderKindName, choice: ToolChoice, calls: tuple[str, ...], note: str
    ) -> None:
        async with serving(Model(kind, calls=calls)) as provider:
            assert (await provider.complete(call("m", tools=(WEATHER,), tool_choice=choice))).notes == (note,)

    async def test_that_another_reason_forbids_stays_a_failure(self, kind: ProviderKindName) -> None:
        model = Model(kind, "messages: the conversation is wrong")
        async with serving(model) as provider:
            with pytest.raises(ProviderError):
                await provider.complete(call("m", tools=(WEATHER,), tool_choice=ToolChoiceMode.REQUIRED))
        assert len(model.choices) == 1
