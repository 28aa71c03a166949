"""A server process whose event loop stands still is replaced. One that works hard on large bodies is not."""

from __future__ import annotations

import http.client
import itertools
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from benchmarks.attacks import allowed, bodies
from tests.app.supervisor.test_serve import Start, config, launch, start
from tests.processes import family, wait_until
from tests.servers import RunningServer, start_server

__all__ = ["config", "launch", "start"]

pytestmark = [pytest.mark.drill, pytest.mark.timeout(180)]

ATTACK_SECONDS = 6
AT_ONCE = 4
LARGE = 5_000_000
_WATCHED = """
[server]
workers = 2
stuck_after = "3s"
"""


class TestBlockedEventLoop:
    def test_has_its_process_replaced(self, start: Start, tmp_path: Path) -> None:
        running = start()
        pid = running.get("/")["pid"]
        with ThreadPoolExecutor(1) as pool:
            stuck = pool.submit(running.get, "/block")
            wait_until(lambda: stuck.done() and running.answers())
        assert running.get("/")["pid"] != pid
        assert "the event loop is stuck: killed" in (tmp_path / "said").read_text()

    def test_is_none_if_its_turns_are_long(self, start: Start, tmp_path: Path) -> None:
        running = start()
        pid = running.get("/")["pid"]
        assert running.get("/crawl") == {}
        assert running.get("/")["pid"] == pid
        assert "stuck" not in (tmp_path / "said").read_text()

    def test_is_none_after_the_machine_stood_still(self, start: Start, tmp_path: Path) -> None:
        running = start()
        pid = running.get("/")["pid"]
        everything = family(running.process.pid)
        for each in everything:
            each.suspend()
        time.sleep(6)
        for each in everything:
            each.resume()
        time.sleep(1.5)
        assert running.get("/")["pid"] == pid
        assert "stuck" not in (tmp_path / "said").read_text()


def test_only_the_process_that_stands_still_is_replaced_and_not_those_that_read_large_bodies(tmp_path: Path) -> None:
    settings, log = tmp_path / "watched.toml", tmp_path / "log"
    settings.write_text(_WATCHED, encoding="utf-8")
    with start_server(tmp_path / "watched", "--config", str(settings), log=log) as server:
        before = {each.pid for each in server.servers}
        refused = attack(server, [each.body for each in (*bodies(), *allowed()) if len(each.body) >= LARGE])
        assert refused >= 10
        assert {each.pid for each in server.servers} == before
        assert restarts(server) == {"died": 0, "stuck": 0}
        assert "stuck" not in log.read_text(encoding="utf-8")
        still, other = server.servers
        still.suspend()
        wait_until(lambda: not still.is_running() and len(server.servers) == 2)
        assert other.is_running()
        wait_until(lambda: counted(server) == {"died": 0, "stuck": 1})
        other.kill()
        wait_until(lambda: counted(server) == {"died": 1, "stuck": 1})


def attack(server: RunningServer, sent: Sequence[bytes]) -> int:
    """Sends these bodies again and again, several at a time. Returns how many were answered."""
    deadline, turns = time.monotonic() + ATTACK_SECONDS, itertools.cycle(sent)

    def one() -> int:
        answered = 0
        while time.monotonic() < deadline:
            try:
                asked(server, "POST", "/graphql", next(turns))
                answered += 1
            except (OSError, http.client.HTTPException):  # a server may answer and close before it has the whole body
                answered += 1
        return answered

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return sum(future.result() for future in [pool.submit(one) for _ in range(AT_ONCE)])


def restarts(server: RunningServer) -> dict[str, float]:
    """By reason, as the metrics of a server process say."""
    status, text = asked(server, "GET", "/metrics")
    assert status == http.HTTPStatus.OK
    found = re.findall(r'^greenlang_process_restarts_total\{reason="(\w+)"\} (\S+)$', text, re.MULTILINE)
    return {reason: float(count) for reason, count in found}


def counted(server: RunningServer) -> dict[str, float] | None:
    """None if the connection came to the process that is killed just then."""
    try:
        return restarts(server)
    except (OSError, http.client.HTTPException):
        return None


def asked(server: RunningServer, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=60)
    headers = {"authorization": f"Bearer {server.key}", "content-type": "application/json"}
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()
