from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.runtime.process_identity import PROC, has_died, identity
from tests.servers import ROOT

TELL = "from app.runtime.process_identity import identity; print(identity(), flush=True); input()"


class TestAnotherProcess:
    def test_is_known_to_be_dead_once_it_is(self) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", TELL], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            named = process.stdout.readline().rstrip("\n")
            before = has_died(named)
            process.kill()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            unreclaimed = has_died(named)
        assert [before, unreclaimed, has_died(named)] == [False, True, True]

    def test_that_got_its_process_id_later_is_another(self) -> None:
        machine_and_process, _, _ = identity().rpartition(" ")
        assert has_died(f"{machine_and_process} 1")

    def test_that_proc_hides_is_not_taken_for_dead(self, tmp_path: Path) -> None:
        for name in ("sys/kernel/random/boot_id", "self/ns/pid"):
            (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / "sys/kernel/random/boot_id").write_text((PROC / "sys/kernel/random/boot_id").read_text())
        (tmp_path / "self/ns/pid").symlink_to((PROC / "self/ns/pid").readlink())
        assert not has_died(identity(), tmp_path)
        machine_and_process, _, _ = identity().rpartition(" ")
        assert not has_died(f"{machine_and_process} 1", tmp_path)

    @pytest.mark.parametrize("named", ["", "1", "elsewhere pid:[1] 999999999 5", " 999999999 5", "not a process"])
    def test_of_another_machine_is_never_known_to_be_dead(self, named: str) -> None:
        assert not has_died(named)


class TestThisProcess:
    def test_is_alive(self) -> None:
        assert identity() == identity()
        assert not has_died(identity())

    def test_where_machines_cannot_be_distinguished_no_one_is_dead(self, tmp_path: Path) -> None:
        assert identity(tmp_path) == ""
        assert not has_died(" 999999999 5", tmp_path)
