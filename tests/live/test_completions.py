"""The main paths against the real APIs, with the keys of the environment. Costs a fraction of a cent."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from app.access.principal import Scope
from app.costs.estimate import Estimator
from app.costs.prices import PriceBook
from app.gateway.completions import CompletionStatus
from app.gateway.embeddings import EmbeddingsRequest
from app.gateway.streams.events import CompletionDelta, CompletionFinished
from app.llm.messages import FinishReason, JsonSchemaFormat, Message, Role, Text, Tool, ToolResult
from app.runtime.clock import SystemClock
from app.secrets.reference import SecretReference
from app.services import Services, build_services
from app.settings import (
    DatabaseSettings,
    ModelSettings,
    ProviderKindName,
    ProviderSettings,
    RedisSettings,
    RouteSettings,
    Settings,
)
from tests.app.access.principals import principal
from tests.services import Stores, asked

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

CALLER = principal(Scope.COMPLETIONS)
TARGETS = {
    "ANTHROPIC_API_KEY": (ProviderKindName.ANTHROPIC, "claude-haiku-5-5"),
    "OPENAI_API_KEY": (ProviderKindName.OPENAI, "gpt-5.4-mini"),
}
DOWN = ProviderSettings(
    name="down", kind=ProviderKindName.OPENAI_COMPATIBLE, base_url="http://127.0.0.1:9", models=(ModelSettings(name="model"),)
)
VECTORS = ModelSettings(name="text-embedding-3-small")
WEATHER = Tool(
    "weather", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}, "The weather now."
)
CITY = JsonSchemaFormat(
    "city", {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"], "additionalProperties": False}
)
QUESTION = "Count from one to five in words, separated by commas. Nothing else."


@pytest.fixture(params=TARGETS)
def provider(request: pytest.FixtureRequest) -> ProviderSettings:
    variable: str = request.param
    if not os.environ.get(variable, "").strip():
        pytest.skip(f"{variable} is not set")
    kind, model = TARGETS[variable]
    return ProviderSettings(
        name=kind.value, kind=kind, api_keys=(SecretReference(env=variable),), models=(ModelSettings(name=model), VECTORS)
    )


@pytest.fixture
async def services(provider: ProviderSettings, database_url: str, valkey_url: str, tmp_path: Path) -> AsyncIterator[Services]:
    stores = Stores.emptied(database_url, valkey_url, tmp_path)
    settings = Settings(
        database=DatabaseSettings(primary=stores.secret("database", database_url)),
        redis=RedisSettings(url=stores.secret("redis", valkey_url)),
        providers=(DOWN, provider),
        routes=(RouteSettings(name="falls-back", targets=("down/model", target(provider))),),
    )
    async with build_services(settings, SystemClock(), Estimator(), PriceBook(settings)) as opened:
        yield opened


def target(provider: ProviderSettings) -> str:
    return f"{provider.name}/{provider.models[0].name}"


async def test_a_whole_answer_is_priced_by_the_providers_own_figures(services: Services, provider: ProviderSettings) -> None:
    completion = await services.gateway.complete(asked(QUESTION, model=target(provider), cap=500), CALLER)
    assert completion.status is CompletionStatus.FINISHED
    assert "three" in (completion.text or "").lower()
    assert completion.usage is not None
    assert completion.usage.confirmed
    assert completion.cost_usd is not None
    assert completion.cost_usd > 0


async def test_a_streamed_answer_is_whole_and_priced(services: Services, provider: ProviderSettings) -> None:
    text = ""
    async with aclosing(services.gateway.stream(asked(QUESTION, model=target(provider), cap=500), CALLER)) as events:
        async for event in events:
            text += event.text if isinstance(event, CompletionDelta) else ""
    assert isinstance(event, CompletionFinished)
    assert event.completion.text == text
    assert "three" in text.lower()
    assert event.completion.usage is not None
    assert event.completion.usage.confirmed


async def test_a_tool_is_called_and_its_result_comes_back(services: Services, provider: ProviderSettings) -> None:
    question = Message(Role.USER, (Text("What is the weather in Rome? Ask the tool."),))
    request = replace(asked(model=target(provider), cap=1000), messages=(question,), tools=(WEATHER,))
    called = await services.gateway.complete(request, CALLER)
    assert called.finish_reason is FinishReason.TOOL_CALLS
    (call,) = called.tool_calls
    assert "city" in json.loads(call.arguments)
    turn = Message(Role.ASSISTANT, tool_calls=called.tool_calls, reasoning=called.reasoning)
    result = Message(Role.TOOL, tool_result=ToolResult(call.id, "Sunny, 21 degrees."))
    answer = await services.gateway.complete(replace(request, messages=(question, turn, result)), CALLER)
    assert (answer.finish_reason, answer.tool_calls) == (FinishReason.STOP, ())
    assert answer.text


async def test_an_answer_has_the_schema_asked_for(services: Services, provider: ProviderSettings) -> None:
    request = replace(asked("Name the capital of Italy.", model=target(provider), cap=500), response_format=CITY)
    completion = await services.gateway.complete(request, CALLER)
    assert list(json.loads(completion.text or "")) == ["name"]


async def test_a_target_that_is_down_is_followed_by_the_next(services: Services, provider: ProviderSettings) -> None:
    completion = await services.gateway.complete(asked(QUESTION, model="falls-back", cap=500), CALLER)
    assert (completion.provider, completion.attempts[0].provider) == (provider.name, "down")
    assert completion.status is CompletionStatus.FINISHED


async def test_vectors_have_the_length_asked_for(services: Services, provider: ProviderSettings) -> None:
    if provider.kind is ProviderKindName.ANTHROPIC:
        pytest.skip("Anthropic has no embeddings")
    made = await services.gateway.embed(
        EmbeddingsRequest(("A text.", "Another."), f"openai/{VECTORS.name}", dimensions=256), CALLER
    )
    assert [len(vector) for vector in made.vectors] == [256, 256]
    assert made.usage.confirmed
