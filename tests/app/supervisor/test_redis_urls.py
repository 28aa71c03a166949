"""A Redis URL of a wrong form is noticed before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.domain.errors import SettingsError
from app.runtime.clock import SystemClock
from app.secrets.reference import SecretReference
from app.settings import CacheSettings, LocalCacheSettings, RedisSettings, Settings, SharedCacheSettings
from app.supervisor.redis_urls import check_redis_urls


@pytest.fixture
def wrong(tmp_path: Path) -> SecretReference:
    return _url(tmp_path, "http://user:hidden@cache:6379")


def _url(folder: Path, text: str) -> SecretReference:
    file = folder / "url"
    file.write_text(text, encoding="utf-8")
    return SecretReference(file=file)


class TestWrongForm:
    def test_is_named_with_its_place_and_without_its_secrets(self, wrong: SecretReference) -> None:
        for settings, place in (
            (Settings(redis=RedisSettings(url=wrong)), "redis.url"),
            (Settings(cache=CacheSettings(local=LocalCacheSettings(url=wrong))), "cache.local.url"),
            (Settings(cache=CacheSettings(shared=SharedCacheSettings(url=wrong))), "cache.shared.url"),
        ):
            with pytest.raises(SettingsError) as refused:
                check_redis_urls(settings, SystemClock())
            assert (refused.value.path, "hidden" in str(refused.value)) == (place, False)

    def test_of_a_tier_that_is_not_enabled_does_not_matter(self, wrong: SecretReference) -> None:
        settings = Settings(cache=CacheSettings(shared=SharedCacheSettings(url=wrong, enabled=False)))
        check_redis_urls(settings, SystemClock())
        assert settings.cache.shared.url == wrong


class TestARightForm:
    def test_is_enough_if_nothing_answers_there(self, tmp_path: Path) -> None:
        url = _url(tmp_path, "rediss+sentinel://user:hidden@127.0.0.1:1/main?sentinel_password=x")
        settings = Settings(redis=RedisSettings(url=url))
        check_redis_urls(settings, SystemClock())
        assert settings.redis.url == url

    def test_with_a_missing_file_of_authorities_is_refused(self, tmp_path: Path) -> None:
        url = _url(tmp_path, "rediss://127.0.0.1:1")
        settings = Settings(cache=CacheSettings(local=LocalCacheSettings(url=url, tls_ca=tmp_path / "missing.pem")))
        with pytest.raises(SettingsError, match=r"^cache\.local\.tls_ca: .*missing\.pem: No such file"):
            check_redis_urls(settings, SystemClock())
