from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

import pytest

from app.domain.errors import SettingsError
from app.secrets.reference import SecretReference
from app.secrets.sealing import build_sealer
from app.settings import ContentSettings, DatabaseSettings, Settings
from app.supervisor.content_key import CONTENT_KEY, keeps_content_in_clear, with_content_key

OWN_DATABASE = DatabaseSettings(primary=SecretReference(env="DATABASE_URL"))


@pytest.fixture
def configured(tmp_path: Path) -> ContentSettings:
    (tmp_path / "mine").write_text(base64.b64encode(os.urandom(32)).decode())
    return ContentSettings(encryption_keys=(SecretReference(file=tmp_path / "mine"),))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


class TestDataDirectoryWithoutAKey:
    def test_gets_one_that_its_owner_alone_reads_and_that_later_starts_find(self, data_dir: Path) -> None:
        first = with_content_key(Settings(), data_dir)
        sealed = build_sealer(first.content.encryption_keys).seal(b"words", b"acme")
        assert b"words" not in sealed
        assert stat.S_IMODE((data_dir / CONTENT_KEY).stat().st_mode) == 0o600
        again = with_content_key(Settings(), data_dir)
        assert build_sealer(again.content.encryption_keys).unseal(sealed, b"acme") == b"words"
        assert [path.name for path in data_dir.iterdir()] == [CONTENT_KEY]

    def test_gets_none_where_one_is_configured(self, data_dir: Path, configured: ContentSettings) -> None:
        settings = Settings(content=configured)
        assert with_content_key(settings, data_dir) == settings
        assert list(data_dir.iterdir()) == []

    def test_gets_none_where_the_database_is_ones_own(self, data_dir: Path) -> None:
        settings = Settings(database=OWN_DATABASE)
        assert with_content_key(settings, data_dir) == settings
        assert list(data_dir.iterdir()) == []

    def test_that_takes_no_file_stops_the_start(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"content\.key: the content key cannot be written"):
            with_content_key(Settings(), tmp_path / "nowhere")

    def test_is_not_confused_by_half_a_key_of_a_start_that_was_killed(self, data_dir: Path) -> None:
        (data_dir / "content.new").write_text("AAAA")
        with_content_key(Settings(), data_dir)
        assert [path.name for path in data_dir.iterdir()] == [CONTENT_KEY]


class TestDataDirectoryWithAKey:
    def test_opens_what_it_sealed_after_one_is_configured_which_seals_from_then_on(
        self, data_dir: Path, configured: ContentSettings
    ) -> None:
        made = build_sealer(with_content_key(Settings(), data_dir).content.encryption_keys)
        for database in (DatabaseSettings(), OWN_DATABASE):
            settings = with_content_key(Settings(content=configured, database=database), data_dir)
            sealer = build_sealer(settings.content.encryption_keys)
            assert sealer.unseal(made.seal(b"words", b"acme"), b"acme") == b"words"
            assert build_sealer(configured.encryption_keys).unseal(sealer.seal(b"words", b"acme"), b"acme") == b"words"

    def test_that_others_could_read_is_the_owners_again(self, data_dir: Path) -> None:
        with_content_key(Settings(), data_dir)
        (data_dir / CONTENT_KEY).chmod(0o644)
        with_content_key(Settings(), data_dir)
        assert stat.S_IMODE((data_dir / CONTENT_KEY).stat().st_mode) == 0o600

    def test_that_is_none_stops_the_start_and_stays_as_it_is(self, data_dir: Path) -> None:
        (data_dir / CONTENT_KEY).write_text("hidden")
        with pytest.raises(SettingsError, match=r"content\.key: is not a key") as caught:
            with_content_key(Settings(), data_dir)
        assert "hidden" not in str(caught.value)
        assert (data_dir / CONTENT_KEY).read_text() == "hidden"


class TestContentInClear:
    def test_is_what_a_database_of_ones_own_has_without_a_key(self, configured: ContentSettings) -> None:
        assert keeps_content_in_clear(Settings(database=OWN_DATABASE))
        assert not keeps_content_in_clear(Settings())
        assert not keeps_content_in_clear(Settings(database=OWN_DATABASE, content=configured))
        assert not keeps_content_in_clear(Settings(database=OWN_DATABASE, content=ContentSettings(store=False)))
