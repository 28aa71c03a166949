"""Which account the stores run as."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from app.embedded.account import choose_account


@pytest.mark.skipif(os.geteuid() == 0, reason="root steps down")
class TestOrdinaryUser:
    def test_runs_them_as_itself(self, tmp_path: Path) -> None:
        assert choose_account(tmp_path, Path(sys.executable)).prefix == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
class TestRoot:
    def test_steps_down_in_a_folder_of_its_own(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o700)
        account = choose_account(tmp_path, Path(sys.executable))
        said = subprocess.run([*account.prefix, "id", "-u"], capture_output=True, text=True, check=True).stdout
        assert int(said) != 0

    def test_becomes_the_owner_of_a_folder_that_is_not_its_own(self) -> None:
        with TemporaryDirectory() as name:
            folder = Path(name)
            os.chown(folder, 12345, 12345)
            assert choose_account(folder, Path("/bin/sh")).uid == 12345

    def test_hands_a_folder_over_that_it_cannot_use_otherwise(self) -> None:
        with TemporaryDirectory() as name:
            (inner := Path(name) / "data").mkdir()
            os.chown(name, 12345, 12345)
            assert choose_account(inner, Path("/bin/sh")).uid == 12345
            assert inner.stat().st_uid == 12345
