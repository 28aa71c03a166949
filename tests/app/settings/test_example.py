from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from app.settings import ProviderSettings, RouteSettings, Settings, load_settings
from app.settings.shape import Place, bare_type, keys_of

EXAMPLE = Path(__file__).parents[3] / "greenlang.example.toml"


def uncommented() -> str:
    """Keys without a default are commented out by a # without a space."""
    return re.sub(r"^#(?=[a-z\[])", "", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def key_places(group: type[BaseModel], above: Place = ()) -> Iterator[Place]:
    """Every key of a group and of those in it, a list's items without their numbers."""
    for key in keys_of(group):
        kind = bare_type(group.model_fields[key].annotation)
        kind = bare_type(get_args(kind)[0]) if get_origin(kind) is tuple else kind
        yield (*above, key)
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind.__module__.startswith("app.settings"):
            yield from key_places(kind, (*above, key))


def named_places(table: dict[str, Any], above: Place = ()) -> Iterator[Place]:
    for key, value in table.items():
        yield (*above, key)
        for below in value if isinstance(value, list) else [value]:
            if isinstance(below, dict):
                yield from named_places(below, (*above, key))


class TestExample:
    def test_a_copy_of_it_changes_nothing(self) -> None:
        assert load_settings(EXAMPLE, {}) == Settings()

    def test_it_names_every_key(self) -> None:
        missing = set(key_places(Settings)) - set(named_places(tomllib.loads(uncommented())))
        assert missing == set()

    def test_what_it_sets_by_default_is_every_key_that_has_one(self) -> None:
        sections = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
        for section, table in sections.items():
            default = getattr(Settings(), section).model_dump()
            set_by_default = {key for key, value in default.items() if value not in (None, ())}
            assert set_by_default - {"per_tenant", "per_agent"} <= set(table)

    def test_all_that_it_offers_is_right(self, tmp_path: Path) -> None:
        file = tmp_path / "greenlang.toml"
        file.write_text(uncommented(), encoding="utf-8")
        settings = load_settings(file, {})
        assert [provider.name for provider in settings.providers] == ["anthropic", "local"]
        assert settings.server.metrics_port == 9400

    def test_the_defaults_of_providers_and_routes_are_the_real_ones(self, tmp_path: Path) -> None:
        file = tmp_path / "greenlang.toml"
        file.write_text(uncommented(), encoding="utf-8")
        settings = load_settings(file, {})
        plain = ProviderSettings(name="anthropic", kind=settings.providers[0].kind)
        said = settings.providers[0].model_copy(
            update={
                "base_url": None,
                "api_keys": (),
                "models": (),
                "limits": settings.providers[0].limits.model_copy(
                    update={"requests_per_minute": None, "tokens_per_minute": None}
                ),
            }
        )
        assert said == plain
        route = settings.routes[0]
        assert route == RouteSettings(name=route.name, targets=route.targets)
        budget = settings.budgets.per_tenant
        assert budget is not None
        assert budget == type(budget)(limit_usd=budget.limit_usd)
