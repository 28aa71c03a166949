"""A secret that is missing is noticed before anything is started."""

from __future__ import annotations

import pytest

from app.domain.errors import SettingsError
from app.secrets.reference import SecretReference
from app.settings import ContentSettings, DatabaseSettings, ProviderKindName, ProviderSettings, RedisSettings, Settings
from app.supervisor.required_secrets import require_secrets

MISSING = SecretReference(env="GREENLANG_TEST_IS_NOT_SET")


def provider(*, enabled: bool) -> ProviderSettings:
    return ProviderSettings(name="mine", kind=ProviderKindName.OPENAI, api_keys=(MISSING,), enabled=enabled)


class TestMissingSecret:
    @pytest.mark.parametrize(
        ("settings", "place"),
        [
            (Settings(database=DatabaseSettings(primary=MISSING)), "database.primary"),
            (Settings(database=DatabaseSettings(replicas=(MISSING,))), "database.replicas[0]"),
            (Settings(redis=RedisSettings(url=MISSING)), "redis.url"),
            (Settings(providers=(provider(enabled=True),)), "providers[0].api_keys[0]"),
            (Settings(content=ContentSettings(encryption_keys=(MISSING,))), "content.encryption_keys[0]"),
        ],
    )
    def test_it_is_named_with_its_place(self, settings: Settings, place: str) -> None:
        with pytest.raises(SettingsError) as refused:
            require_secrets(settings)
        assert (refused.value.path, "GREENLANG_TEST_IS_NOT_SET" in refused.value.problem) == (place, True)

    def test_a_provider_that_is_not_enabled_needs_none(self) -> None:
        settings = Settings(providers=(provider(enabled=False),))
        require_secrets(settings)
        assert settings.providers[0].api_keys == (MISSING,)
