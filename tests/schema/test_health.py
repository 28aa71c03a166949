from __future__ import annotations

import pytest

from app.domain.errors import Forbidden
from tests.schema.api import ADMIN, Api

pytestmark = pytest.mark.anyio

HEALTH = "{ health { status draining checks { name status required tookMs reason } } }"


class TestHealth:
    async def test_names_every_store_and_provider_with_the_time_of_its_check(self, api: Api) -> None:
        health = (await api.data(HEALTH, ADMIN))["health"]
        assert (health["status"], health["draining"]) == ("UP", False)
        found = {check["name"]: (check["status"], check["required"], check["reason"]) for check in health["checks"]}
        assert found["redis"] == ("UP", False, None)
        assert {name for name in found if name.startswith("provider_")} == {
            f"provider_{each.name}" for each in api.services.settings.providers
        }
        assert [name for name, (_, required, _) in found.items() if required] == ["postgresql"]
        assert all(check["tookMs"] >= 0 for check in health["checks"])

    async def test_says_that_the_process_drains(self, api: Api) -> None:
        api.services.drain.begin()
        assert (await api.data(HEALTH, ADMIN))["health"]["draining"] is True

    async def test_is_for_administrators_only(self, api: Api) -> None:
        assert isinstance(await api.raised(HEALTH), Forbidden)
