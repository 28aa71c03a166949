"""Ports and passwords that survive restarts."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from app.embedded.addresses import DATABASE_URL, REDIS_URL, keep_address, read_address


@pytest.mark.parametrize("name", [DATABASE_URL, REDIS_URL])
class TestAddress:
    def test_it_is_made_once(self, tmp_path: Path, name: str) -> None:
        made = keep_address(tmp_path / name)
        assert keep_address(tmp_path / name) == made == read_address(tmp_path / name)

    def test_it_is_for_its_owner_alone(self, tmp_path: Path, name: str) -> None:
        keep_address(tmp_path / name)
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600

    def test_another_port_is_taken_where_the_old_one_is_taken(self, tmp_path: Path, name: str) -> None:
        before = keep_address(tmp_path / name)
        with socket.create_server(("127.0.0.1", before.port)):
            after = keep_address(tmp_path / name)
        assert after.port != before.port
        assert after.password == before.password
