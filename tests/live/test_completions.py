"""The main paths against the real APIs, with the keys of the environment. Costs a fraction of a cent."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from app.access.principal import Scope
from app.clock import SystemClock
from app.completion_events import CompletionDelta, CompletionFinished
from app.completions import CompletionStatus
from app.costs.estimate import Estimator
from app.costs.prices import PriceBook
from app.secrets import SecretReference
from app.services import Services, build_services
from app.settings import DatabaseSettings, ModelSettings, ProviderKindName, ProviderSettings, RedisSettings, Settings
from tests.app.access.principals import principal
from tests.services import Stores, asked

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

CALLER = principal(Scope.COMPLETIONS)
TARGETS = {
    "ANTHROPIC_API_KEY": (ProviderKindName.ANTHROPIC, "claude-haiku-5-5"),
    "OPENAI_API_KEY": (ProviderKindName.OPENAI, "gpt-5.4-mini"),
}
QUESTION = "Count from one to five in words, separated by commas. Nothing else."


@pytest.fixture(params=TARGETS)
def provider(request: pytest.FixtureRequest) -> ProviderSettings:
    variable: str = request.param
    if not os.environ.get(variable, "").strip():
        pytest.skip(f"{variable} is not set")
    kind, model = TARGETS[variable]
    return ProviderSettings(
        name=kind.value, kind=kind, api_keys=(SecretReference(env=variable),), models=(ModelSettings(name=model),)
    )


@pytest.fixture
async def services(provider: ProviderSettings, database_url: str, valkey_url: str, tmp_path: Path) -> AsyncIterator[Services]:
    stores = Stores.emptied(database_url, valkey_url, tmp_path)
    settings = Settings(
        database=DatabaseSettings(primary=stores.secret("database", database_url)),
        redis=RedisSettings(url=stores.secret("redis", valkey_url)),
        providers=(provider,),
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
    async with aclosing(services.streams.stream(asked(QUESTION, model=target(provider), cap=500), CALLER)) as events:
        async for event in events:
            text += event.text if isinstance(event, CompletionDelta) else ""
    assert isinstance(event, CompletionFinished)
    assert event.completion.text == text
    assert "three" in text.lower()
    assert event.completion.usage is not None
    assert event.completion.usage.confirmed
