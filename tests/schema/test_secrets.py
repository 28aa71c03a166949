from __future__ import annotations

import pytest

from app.domain.errors import Forbidden
from tests.schema.api import ADMIN, Api

pytestmark = pytest.mark.anyio

SECRETS = "{ secrets { place source readAt changedAt lastError inUse } }"


class TestSecrets:
    async def test_are_shown_with_place_and_source_and_never_a_value(self, api: Api) -> None:
        found = {each["place"]: each for each in (await api.data(SECRETS, ADMIN))["secrets"]}
        assert {"database.primary", "redis.url"} <= set(found)
        for each in found.values():
            assert each["readAt"] is not None
            assert (each["changedAt"], each["lastError"], each["inUse"]) == (None, None, True)
        assert "postgresql://" not in str(found)

    async def test_are_for_administrators_only(self, api: Api) -> None:
        assert isinstance(await api.raised(SECRETS), Forbidden)
