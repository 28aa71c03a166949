"""A caller that wants no reasoning, from a model that always reasons."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from app.domain.errors import Refused
from app.llm.messages import Answer, ModelCall, ReasoningEffort, UnsupportedPolicy
from app.llm.providers.adapter import Adapter
from app.settings import ProviderKindName
from tests.app.llm.calls import ANTHROPIC, COMPATIBLE, OPENAI, adapter, call, end_of, parts_of

pytestmark = pytest.mark.anyio
NONE = ReasoningEffort.NONE
USAGE = {"input_tokens": 10, "output_tokens": 5, "prompt_tokens": 10, "completion_tokens": 5}
REFUSALS: tuple[tuple[ProviderKindName, str, str | None], ...] = (
    (ANTHROPIC, '"thinking.type.disabled" is not supported for this model.', None),
    (ANTHROPIC, "thinking: disabled thinking is not allowed for this model", None),
    (ANTHROPIC, "thinking.type: Input should be 'adaptive'", None),
    (
        OPENAI,
        "Unsupported value: 'reasoning_effort' does not support 'none' with this model. Supported values are: 'low' and 'high'.",
        "unsupported_value",
    ),
    (COMPATIBLE, "reasoning_effort: Input should be 'low', 'medium' or 'high'", None),
    (COMPATIBLE, "This model does not support disabling thinking", None),
)


@dataclass
class Model:
    """Takes the efforts in `taken` alone."""

    kind: ProviderKindName
    refusal: str = ""
    code: str | None = None
    taken: tuple[str, ...] = ("low",)
    efforts: list[str | None] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json()
        effort = self.effort(body)
        self.efforts.append(effort)
        if effort is not None and effort not in self.taken:
            error = {
                "type": "invalid_request_error",
                "message": self.refusal,
                "code": self.code,
                "param": self.code and "reasoning_effort",
            }
            return web.json_response({"error": error}, status=400)
        if self.kind is ANTHROPIC:
            return web.json_response({"content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn", "usage": USAGE})
        return web.json_response({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "usage": USAGE})

    def effort(self, body: dict[str, Any]) -> str | None:
        if self.kind is not ANTHROPIC:
            found: str | None = body.get("reasoning_effort")
            return found
        if body.get("thinking") == {"type": "disabled"}:
            return "none"
        wanted: str | None = body.get("output_config", {}).get("effort")
        return wanted


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
class TestAModelThatAlwaysReasons:
    @pytest.mark.parametrize(("kind", "refusal", "code"), REFUSALS)
    async def test_is_sent_its_lowest_effort_and_remembered(
        self, kind: ProviderKindName, refusal: str, code: str | None, *, streamed: bool
    ) -> None:
        model = Model(kind, refusal, code)
        async with serving(model) as provider:
            answers = [await ask(provider, call("m", reasoning_effort=NONE), streamed=streamed) for _ in range(2)]
        note = "reasoningEffort was changed from NONE to LOW: m does not take NONE."
        assert [answer.notes for answer in answers] == [(note,), (note,)]
        assert [effort for effort in model.efforts if effort != "minimal"] == ["none", "low", "low"]

    async def test_is_known_for_some_claude_models(self, *, streamed: bool) -> None:
        model = Model(ANTHROPIC)
        async with serving(model) as provider:
            answer = await ask(provider, call("claude-fable-5-1", reasoning_effort=NONE), streamed=streamed)
        assert model.efforts == ["low"]
        assert answer.notes == ("reasoningEffort was changed from NONE to LOW: claude-fable-5-1 does not take NONE.",)

    async def test_is_left_without_an_effort_if_it_takes_none_so_low(self, *, streamed: bool) -> None:
        model = Model(COMPATIBLE, "reasoning_effort: Input should be 'high'", taken=("high",))
        async with serving(model) as provider:
            answer = await ask(provider, call("m", reasoning_effort=NONE), streamed=streamed)
        assert model.efforts == ["none", "minimal", "low", None]
        assert answer.notes == ("reasoningEffort was left out: m does not take it.",)

    async def test_refuses_the_call_if_its_route_wants_that(self, *, streamed: bool) -> None:
        model = Model(OPENAI, REFUSALS[3][1], REFUSALS[3][2])
        async with serving(model) as provider:
            with pytest.raises(Refused):
                await ask(provider, call("m", reasoning_effort=NONE, unsupported=UnsupportedPolicy.REFUSE), streamed=streamed)


@pytest.mark.parametrize("kind", [ANTHROPIC, OPENAI, COMPATIBLE])
async def test_a_model_that_can_stop_reasoning_is_sent_none(kind: ProviderKindName) -> None:
    model = Model(kind, taken=("none",))
    async with serving(model) as provider:
        assert (await provider.complete(call("m", reasoning_effort=NONE))).notes == ()
    assert model.efforts == ["none"]
