from __future__ import annotations

from pathlib import Path

import pytest

from app.domain.errors import FailureKind
from app.llm.providers.unusable_settings import doubts
from app.settings import ProviderKindName, Settings
from tests.app.llm.calls import COMPATIBLE, adapter, failure, key_file, settings
from tests.simulators import RunningSimulator

pytestmark = pytest.mark.anyio


class TestAnAddress:
    @pytest.mark.parametrize("base_url", ["http://a..b/v1", "http://.a/v1", "http://a.../v1"])
    async def test_whose_host_has_an_empty_part_is_named_with_its_place_and_fails_typed(self, base_url: str) -> None:
        provider = settings(COMPATIBLE, base_url)
        assert [place for place, _ in doubts(Settings(providers=(provider,)))] == ["providers[0].base_url"]
        made = adapter(COMPATIBLE, base_url)
        error = await failure(made, "m", streamed=False)
        assert (error.kind in {FailureKind.UNFORESEEN, FailureKind.CONNECTION}, error.usage) == (True, None)
        await made.close()

    @pytest.mark.parametrize(
        "base_url", ["http://127.0.0.1:1/v1", "http://[::1]:1/v1", "http://a-b.example.:1/v1", "http://\u00fc.de"]
    )
    def test_that_can_be_looked_up_is_not(self, base_url: str) -> None:
        assert list(doubts(Settings(providers=(settings(COMPATIBLE, base_url),)))) == []


class TestAKey:
    async def test_of_two_lines_is_named_with_its_place_and_never_sent(
        self, kind: ProviderKindName, base_url: str, simulator: RunningSimulator, tmp_path: Path
    ) -> None:
        keys = (key_file(tmp_path, "two", "sk-1\nsk-2"),)
        provider = settings(kind, base_url, api_keys=keys)
        [(place, problem)] = doubts(Settings(providers=(provider,)))
        assert (place, "sk-" in problem) == ("providers[0].api_keys[0]", False)
        made = adapter(kind, base_url, api_keys=keys)
        assert (await failure(made, "m", streamed=False)).kind is FailureKind.KEY_REFUSED
        assert simulator.log() == []
        await made.close()

    async def test_that_cannot_be_sent_makes_way_for_the_next_one(
        self, kind: ProviderKindName, base_url: str, simulator: RunningSimulator, tmp_path: Path
    ) -> None:
        keys = (key_file(tmp_path, "two", "sk-1\nsk-2"), key_file(tmp_path, "good", "sk-3"))
        made = adapter(kind, base_url, api_keys=keys)
        await made.probe()
        assert [entry.status for entry in simulator.ended(1)] == [200]
        await made.close()
