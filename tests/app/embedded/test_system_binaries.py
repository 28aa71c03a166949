"""Private stores on a Python without the stores' wheels: the system's PostgreSQL and Redis take their place."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from app.embedded.stores import PrivateStores
from tests.app.embedded.test_stores import execute, redis
from tests.processes import command, family, wait_gone

_BARE_PYTHON = """#!/bin/sh
exec '{python}' -S "$@"
"""
_POSTGRES = [*Path("/usr/lib/postgresql").glob("[0-9]*/bin/postgres"), *filter(None, [shutil.which("postgres")])]
_REDIS = shutil.which("valkey-server") or shutil.which("redis-server")

pytestmark = [
    pytest.mark.drill,
    pytest.mark.skipif(not _POSTGRES, reason="the system has no PostgreSQL: apt install postgresql"),
    pytest.mark.skipif(_REDIS is None, reason="the system has neither Valkey nor Redis: apt install redis-server"),
]


@pytest.fixture
def bare_python(tmp_path: Path) -> str:
    """An interpreter that sees no installed package."""
    script = tmp_path / "python"
    script.write_text(_BARE_PYTHON.format(python=sys.executable))
    script.chmod(0o755)
    return str(script)


def launch(data_dir: Path) -> PrivateStores:
    stores = PrivateStores.launch(data_dir)
    stores.wait()
    return stores


def programs(stores: PrivateStores) -> list[Path]:
    """What PostgreSQL and Redis were started from; both write their titles over their arguments."""
    started = [
        Path(words[0].split()[0]) for process in family(stores.store_supervisor.pid) if (words := command(process)) and words[0]
    ]
    return [program for program in started if program.name in {"postgres", "valkey-server", "redis-server"}]


class TestWithoutWheels:
    def test_the_systems_programs_serve_and_keep_the_data(
        self, tmp_path: Path, bare_python: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "executable", bare_python)
        for times in (1, 2):
            stores = launch(tmp_path / "data")
            everything = family(stores.store_supervisor.pid)
            try:
                assert {program.parts[1] for program in programs(stores)} == {"usr"}
                execute(stores, "create table if not exists kept (number int)")
                execute(stores, "insert into kept values (1)")
                assert (execute(stores, "select count(*) from kept"), redis(stores).incr("kept")) == (times, times)
            finally:
                stores.stop()
            wait_gone(everything)

    def test_a_killed_store_supervisor_leaves_nothing(
        self, tmp_path: Path, bare_python: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "executable", bare_python)
        stores = launch(tmp_path / "data")
        everything = family(stores.store_supervisor.pid)
        stores.store_supervisor.kill()
        wait_gone(everything)
        stores.stop()

    def test_its_data_stay_with_it_when_the_wheels_come(
        self, tmp_path: Path, bare_python: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as without_wheels:
            without_wheels.setattr(sys, "executable", bare_python)
            first = launch(tmp_path / "data")
            execute(first, "create table kept as select 7 as number")
            first.stop()
        second = launch(tmp_path / "data")
        try:
            assert execute(second, "select number from kept") == 7
        finally:
            second.stop()
