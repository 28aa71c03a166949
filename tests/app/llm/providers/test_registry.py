from __future__ import annotations

import subprocess
import sys

import pytest

from app.domain.errors import SettingsError
from app.llm.providers.registry import build_providers
from app.runtime.clock import SystemClock
from app.secrets.reference import SecretReference
from app.settings import ProviderKindName, ProviderSettings
from tests.app.llm.calls import ANTHROPIC, COMPATIBLE, OPENAI, settings

pytestmark = pytest.mark.anyio
_LOADED = """
import sys
from app.runtime.clock import SystemClock
from app.llm.providers.registry import build_providers
from app.settings import ProviderSettings
build_providers([ProviderSettings(name="a", kind="{kind}", base_url="http://127.0.0.1:1", simulated=True)], SystemClock())
print(*sorted({{"anthropic", "openai"}} & set(sys.modules)))
"""


class TestBuilding:
    async def test_gives_the_enabled_ones_by_name_in_their_order(self) -> None:
        configured = [
            settings(OPENAI, "http://127.0.0.1:1/v1"),
            settings(ANTHROPIC, "http://127.0.0.1:1", enabled=False),
            settings(COMPATIBLE, "http://127.0.0.1:1/v1", simulated=False),
        ]

        providers = build_providers(configured, SystemClock())

        assert list(providers) == ["my-openai", "my-openai-compatible"]
        assert [each.kind for each in providers.values()] == ["openai (simulator)", "openai-compatible"]
        for each in providers.values():
            await each.close()

    @pytest.mark.parametrize("kind", [ANTHROPIC, OPENAI])
    def test_loads_only_the_sdk_that_is_configured(self, kind: ProviderKindName) -> None:
        shown = subprocess.run([sys.executable, "-c", _LOADED.format(kind=kind)], capture_output=True, text=True, check=True)

        assert shown.stdout.split() == [kind.value]

    def test_says_which_key_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("NO_SUCH_KEY", raising=False)
        missing = ProviderSettings(name="a", kind=ANTHROPIC, api_keys=(SecretReference(env="NO_SUCH_KEY"),))

        with pytest.raises(SettingsError, match="env NO_SUCH_KEY: is not set"):
            build_providers([missing], SystemClock())
