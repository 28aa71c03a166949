"""One owner a data directory."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from app.domain.errors import SettingsError
from app.runtime.clock import SystemClock
from app.supervisor.ownership import DataDirectoryInUse, owned

_OWN = """
import os, sys
from pathlib import Path
from app.runtime.clock import SystemClock
from app.supervisor.ownership import owned
with owned(Path(sys.argv[1]), SystemClock()):
    if os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
    os._exit(0)
"""


class TestOwned:
    def test_the_directory_is_made_for_its_owner_alone(self, tmp_path: Path) -> None:
        with owned(tmp_path / "some" / "data", SystemClock()) as data_dir:
            assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700

    def test_a_second_owner_is_informed_of_the_first(self, tmp_path: Path) -> None:
        with owned(tmp_path, SystemClock()), pytest.raises(DataDirectoryInUse) as refused, owned(tmp_path, SystemClock()):
            pass
        assert refused.value.pid == os.getpid()

    def test_it_is_free_again_afterwards(self, tmp_path: Path) -> None:
        for _ in range(2):
            with owned(tmp_path, SystemClock()) as data_dir:
                assert data_dir == tmp_path.resolve()

    def test_a_file_in_its_place_is_a_setting_that_is_wrong(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(SettingsError, match=r"server\.data_dir"), owned(tmp_path / "file", SystemClock()):
            pass


class TestOwnerIsGone:
    """Its children still hold the directory: they answer what they were asked."""

    @pytest.fixture
    def orphan(self, tmp_path: Path) -> subprocess.Popen[bytes]:
        parent = subprocess.Popen([sys.executable, "-c", _OWN, tmp_path], stdin=subprocess.PIPE)
        parent.wait()
        return parent

    def test_the_next_owner_waits_for_them(self, tmp_path: Path, orphan: subprocess.Popen[bytes]) -> None:
        assert orphan.stdin is not None
        timer = threading.Timer(0.3, orphan.stdin.close)
        timer.start()
        with owned(tmp_path, SystemClock(), wait_seconds=20) as data_dir:
            assert data_dir == tmp_path.resolve()
        timer.join()

    def test_but_not_for_ever(self, tmp_path: Path, orphan: subprocess.Popen[bytes]) -> None:
        with pytest.raises(DataDirectoryInUse), owned(tmp_path, SystemClock(), wait_seconds=0.2):
            pass
        assert orphan.stdin is not None
        orphan.stdin.close()
