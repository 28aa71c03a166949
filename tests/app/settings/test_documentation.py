from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from app.settings import Settings, load_settings

TEXT = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text(encoding="utf-8")
TOML = re.findall(r"```toml\n(.*?)```", TEXT, flags=re.DOTALL)
VARIABLES = re.findall(r"^GREENLANG_\S.*$", TEXT, flags=re.MULTILINE)


class TestConfigurationGuide:
    @pytest.mark.parametrize("text", TOML)
    def test_its_files_load(self, text: str, tmp_path: Path) -> None:
        file = tmp_path / "example.toml"
        file.write_text(text, encoding="utf-8")
        assert load_settings(file, {}) != Settings()

    def test_its_variables_are_read(self, tmp_path: Path) -> None:
        file = tmp_path / "example.toml"
        file.write_text(next(text for text in TOML if "[[providers]]" in text), encoding="utf-8")
        environ = dict(shlex.split(line)[0].split("=", 1) for line in VARIABLES)
        settings = load_settings(file, environ)
        assert len(environ) == 5
        assert settings.server.port == 8500
        assert len(settings.server.allowed_origins) == 2
        assert settings.budgets.per_tenant is not None
        assert [provider.enabled for provider in settings.providers] == [False, True]
