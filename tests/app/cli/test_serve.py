from __future__ import annotations

import pytest

from app.cli.serve import is_exposed
from app.settings import ServerSettings


class TestAnAddressThatOthersReach:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "greenlang.internal"])
    def test_is_exposed_until_a_proxy_is_named(self, host: str) -> None:
        assert is_exposed(ServerSettings(host=host))
        assert not is_exposed(ServerSettings(host=host, trusted_proxies=("10.0.0.0/8",)))

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
    def test_is_none_of_this_machine_alone(self, host: str) -> None:
        assert not is_exposed(ServerSettings(host=host))
