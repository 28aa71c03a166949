"""The supervisor with real children: started, asked, stopped, killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import psutil
import pytest

from tests.processes import command, family, kill_all, named, wait_gone, wait_until
from tests.servers import ROOT

pytestmark = [pytest.mark.drill, pytest.mark.timeout(180)]

_ONE_PROVIDER = """
[server]
shutdown_grace = "5s"
stuck_after = "2s"
[[providers]]
name = "somewhere"
kind = "openai-compatible"
base_url = "http://127.0.0.1:9/v1"
models = [{ name = "small" }]
"""


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[str]
    address: str
    first_key: str

    def get(self, path: str) -> dict[str, object]:
        connection = HTTPConnection(urlsplit(self.address).netloc, timeout=30)
        try:
            connection.request("GET", path)
            answer: dict[str, object] = json.load(connection.getresponse())
        finally:
            connection.close()
        return answer

    def answers(self) -> bool:
        try:
            return "pid" in self.get("/")
        except (OSError, HTTPException):
            return False

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(sign)
        return self.process.wait(60)


Start = Callable[..., Running]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "greenlang.toml"
    file.write_text(_ONE_PROVIDER, encoding="utf-8")
    return file


@pytest.fixture
def launch(tmp_path: Path, config: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    launched: list[subprocess.Popen[str]] = []

    def run(workers: int = 1, application: str = "create_app", config: Path = config) -> subprocess.Popen[str]:
        arguments: list[str | Path] = [tmp_path / "data", str(workers), application, config]
        with (tmp_path / "said").open("a") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.app.supervisor.standin", *arguments],
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                cwd=ROOT,
                start_new_session=True,
            )
        launched.append(process)
        return process

    yield run
    for process in launched:
        with suppress(psutil.NoSuchProcess):
            kill_all(family(process.pid))
        process.communicate()


@pytest.fixture
def start(launch: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> Start:
    def run(workers: int = 1, application: str = "create_app", **options: Path) -> Running:
        process = launch(workers, application, **options)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (tmp_path / "said").read_text()
        address, first_key = line.split()
        return Running(process, address, first_key)

    return run


class TestStarted:
    def test_the_first_start_alone_gives_a_key_and_the_data_stay(self, start: Start) -> None:
        first = start()
        assert first.first_key.startswith("sk-")
        assert first.stop() == 0
        second = start()
        assert second.first_key == "None"
        assert second.get("/slow?seconds=0") == {"keys": 1}

    def test_server_processes_share_the_port(self, start: Start) -> None:
        running = start(workers=2)
        pids = {running.get("/")["pid"] for _ in range(40)}
        assert len(pids) == 2
        assert running.process.pid not in pids

    def test_the_supervisor_has_one_thread(self, start: Start) -> None:
        running = start()
        assert psutil.Process(running.process.pid).num_threads() == 1

    def test_without_a_provider_a_simulator_of_its_own_stands_in(self, start: Start, tmp_path: Path) -> None:
        empty = tmp_path / "empty.toml"
        empty.touch()
        running = start(config=empty)
        addresses = cast("list[str]", running.get("/")["simulated"])
        assert len({urlsplit(address).netloc for address in addresses}) == 1
        everything = family(running.process.pid)
        assert running.stop() == 0
        wait_gone(everything)


class TestNotStarted:
    def test_a_second_one_on_the_data_directory_names_the_first(
        self, start: Start, launch: Callable[..., subprocess.Popen[str]], tmp_path: Path
    ) -> None:
        first = start()
        launch().wait(60)
        said = (tmp_path / "said").read_text()
        assert "already runs on the data directory" in said
        assert f"process {first.process.pid}" in said
        assert first.answers()

    def test_an_application_that_does_not_come_up_ends_the_start(
        self, launch: Callable[..., subprocess.Popen[str]], tmp_path: Path
    ) -> None:
        process = launch(application="create_broken_app")
        wait_until(lambda: len(psutil.Process(process.pid).children(recursive=True)) > 2)
        everything = family(process.pid)
        assert process.wait(60) != 0
        assert "a server process ended before it answered" in (tmp_path / "said").read_text()
        wait_gone(everything)

    def test_a_start_that_reported_no_one_a_key_leaves_that_to_the_next(
        self, start: Start, launch: Callable[..., subprocess.Popen[str]]
    ) -> None:
        assert launch(application="create_broken_app").wait(60) != 0
        running = start()
        assert running.first_key.startswith("sk-")
        assert running.get("/slow?seconds=0") == {"keys": 1}

    def test_a_signal_while_a_dataclass_is_made_is_an_end_as_any(self) -> None:
        script = (
            "from app.supervisor.serve import interrupted_by_signals\n"
            "try:\n"
            "    with interrupted_by_signals():\n"
            "        exec('import os, signal; os.kill(os.getpid(), signal.SIGTERM)')\n"
            "except KeyboardInterrupt:\n"
            "    print('caught')\n"
        )
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
        assert (ended.returncode, ended.stdout) == (0, "caught\n"), ended.stderr

    def test_a_signal_while_it_starts_leaves_nothing(self, launch: Callable[..., subprocess.Popen[str]]) -> None:
        process = launch()
        wait_until(lambda: named(psutil.Process(process.pid).children(recursive=True), "postgres") != [])
        everything = family(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        wait_gone(everything)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
class TestStopped:
    def test_what_is_in_flight_is_answered_with_its_stores_still_there(self, start: Start, sign: signal.Signals) -> None:
        running = start(workers=2)
        everything = family(running.process.pid)
        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(running.get, "/slow?seconds=1.5") for _ in range(4)]
            time.sleep(0.5)
            assert running.stop(sign) == 0
            assert [answer.result() for answer in answers] == [{"keys": 1}] * 4
        wait_gone(everything, 1)


class TestStoppedTwice:
    def test_no_one_is_waited_for(self, start: Start) -> None:
        running = start()
        everything = family(running.process.pid)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(running.get, "/slow?seconds=4.5")
            time.sleep(0.5)
            begun = time.monotonic()
            running.process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            assert running.stop(signal.SIGINT) == 0
            assert time.monotonic() - begun < 4
            assert isinstance(answer.exception(), ValueError), (
                "it is answered that it ended, in no JSON by this small application"
            )
        wait_gone(everything, 1)


class TestSupervisorKilled:
    def test_nothing_is_left(self, start: Start) -> None:
        running = start(workers=2)
        everything = family(running.process.pid)
        running.process.kill()
        wait_gone(everything)

    def test_what_is_in_flight_is_answered_and_the_next_start_waits_for_it(self, start: Start) -> None:
        running = start()
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(running.get, "/slow?seconds=2")
            time.sleep(0.5)
            running.process.kill()
            again = start()
            assert answer.result() == {"keys": 1}
        assert again.get("/slow?seconds=0") == {"keys": 1}


class TestChildKilled:
    def test_a_server_process_is_replaced(self, start: Start) -> None:
        running = start()
        pid = running.get("/")["pid"]
        assert isinstance(pid, int)
        os.kill(pid, signal.SIGKILL)
        wait_until(running.answers)
        assert running.get("/")["pid"] != pid

    def test_the_stores_come_back(self, start: Start) -> None:
        running = start()
        store_supervisor = next(
            each for each in psutil.Process(running.process.pid).children() if "app.embedded.store_supervisor" in command(each)
        )
        store_supervisor.kill()
        wait_until(lambda: _counts_keys(running))

    def test_the_simulator_comes_back_at_its_address(self, start: Start, tmp_path: Path) -> None:
        empty = tmp_path / "empty.toml"
        empty.touch()
        running = start(config=empty)
        simulator = next(each for each in psutil.Process(running.process.pid).children() if "simulator" in command(each))
        (port,) = {each.laddr.port for each in simulator.net_connections() if each.status == psutil.CONN_LISTEN}
        simulator.kill()
        wait_until(lambda: not simulator.is_running())
        wait_until(lambda: port in _ports_of_simulators(running))


def _counts_keys(running: Running) -> bool:
    try:
        return running.get("/slow?seconds=0") == {"keys": 1}
    except (OSError, HTTPException, ValueError):
        return False


def _ports_of_simulators(running: Running) -> set[int]:
    simulators = [each for each in psutil.Process(running.process.pid).children() if "simulator" in command(each)]
    return {each.laddr.port for simulator in simulators for each in simulator.net_connections()}
