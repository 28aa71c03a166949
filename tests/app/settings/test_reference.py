from __future__ import annotations

from app.settings import Settings
from app.settings.reference import EXAMPLE, PAGE, write_reference
from tests.app.settings.test_example import key_places

TEXT = PAGE.read_text(encoding="utf-8")


class TestReference:
    def test_is_as_the_settings_are(self) -> None:
        """To write it anew: python -m app.settings.reference."""
        assert write_reference(EXAMPLE.read_text(encoding="utf-8")) == TEXT

    def test_has_every_key_in_its_section(self) -> None:
        rows = {part.partition("`")[0].strip("[]"): part for part in TEXT.split("\n## `")[1:]}
        groups = {".".join(map(str, place[:-1])) for place in key_places(Settings) if len(place) > 1}
        for place in key_places(Settings):
            section, key = ".".join(map(str, place[:-1])), str(place[-1])
            if section and ".".join(map(str, place)) not in groups:
                assert f"`{key}`" in rows[section], place
