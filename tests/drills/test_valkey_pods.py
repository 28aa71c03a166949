"""The scripts of k8s/references/redis with real servers: three that hold the data and three Sentinels, on ports of this machine.

A pod that comes back must never be a second primary, and what was written must be there.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import RedisError

from app.embedded.binaries import find_valkey
from tests.redis_servers import free_ports

SCRIPTS = Path(__file__).parents[2] / "k8s" / "references" / "redis"
PASSWORD = "of the drill"
pytestmark = pytest.mark.drill


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)


@dataclass
class Pods:
    folder: Path
    patience: int
    ports: list[int] = field(default_factory=lambda: free_ports(6))
    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def servers(self) -> list[int]:
        return self.ports[:3]

    @property
    def sentinels(self) -> list[int]:
        return self.ports[3:]

    def start(self, *ports: int) -> None:
        for port in ports:
            data = self.folder / str(port)
            data.mkdir(exist_ok=True)
            given = {
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "SELF": "localhost",
                "PORT": str(port),
                "SERVICE": "greenlang",
                "DATA": str(data),
                "FIRST": f"localhost:{self.servers[0]}",
                "PASSWORD_FILE": str(self.folder / "password"),
                "PATIENCE": str(self.patience),
                "PEERS": " ".join(f"localhost:{each}" for each in self.servers),
                "SENTINELS": " ".join(f"localhost:{each}" for each in self.sentinels),
            }
            script = SCRIPTS / ("start-valkey.sh" if port in self.servers else "start-sentinel.sh")
            with (self.folder / f"{port}.log").open("ab") as log:
                self.running[port] = subprocess.Popen(
                    ["/bin/sh", str(script)], env=given, stdout=log, stderr=log, start_new_session=True
                )

    def kill(self, *ports: int) -> None:
        for port in ports:
            os.killpg(self.running[port].pid, signal.SIGKILL)
            self.running.pop(port).wait()

    def client(self, port: int) -> Redis:
        return Redis(host="localhost", port=port, password=PASSWORD, socket_timeout=2, decode_responses=True)

    def role(self, port: int) -> str:
        with self.client(port) as client:
            try:
                return str(client.execute_command("ROLE")[0])
            except NoConnection:
                return "away"

    def primaries(self) -> list[int]:
        return [port for port in self.servers if self.role(port) == "master"]

    def replicas_of(self, port: int) -> int:
        with self.client(port) as client:
            try:
                return int(client.info("replication").get("min_slaves_good_slaves", 0))
            except RedisError:
                return 0

    def known_by(self, sentinel: int) -> dict[str, str]:
        with self.client(sentinel) as client:
            try:
                answer = client.execute_command("SENTINEL", "MASTER", "greenlang")
            except RedisError:
                return {}
        return answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))

    def settled(self) -> bool:
        """One primary has two replicas that keep up, and every Sentinel knows it, both replicas and the other Sentinels."""
        primaries = self.primaries()
        if len(primaries) != 1 or self.replicas_of(primaries[0]) != 2:
            return False
        expected = {"ip": "localhost", "port": str(primaries[0]), "num-slaves": "2", "num-other-sentinels": "2"}
        return all(
            {name: str(value) for name, value in self.known_by(each).items() if name in expected} == expected
            for each in self.sentinels
        )


@pytest.fixture
def pods(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pods]:
    client = shutil.which("valkey-cli") or shutil.which("redis-cli")
    if client is None:
        assert "CI" not in os.environ, "redis-cli is missing"
        pytest.skip("there is no valkey-cli and no redis-cli")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "valkey-cli").symlink_to(client)
    (programs / "valkey-server").symlink_to(find_valkey())
    (programs / "valkey-sentinel").write_text(f'#!/bin/sh\nexec "{find_valkey()}" "$@" --sentinel\n')
    (programs / "valkey-sentinel").chmod(0o755)
    (tmp_path / "password").write_text(PASSWORD)
    pods = Pods(tmp_path, patience=request.param)
    try:
        yield pods
    finally:
        pods.kill(*pods.running)


@pytest.mark.parametrize("pods", [2], indirect=True)
def test_a_pod_that_comes_back_asks_its_peers_while_no_sentinel_answers(pods: Pods) -> None:
    first, second, _ = pods.servers
    pods.start(*pods.servers)
    wait_for(lambda: pods.primaries() == [first] and pods.replicas_of(first) == 2)
    with pods.client(first) as client:
        client.set("written", "before")
        assert client.wait(2, 5000) == 2
    pods.kill(first)
    with pods.client(second) as client:
        client.execute_command("REPLICAOF", "NO", "ONE")
    pods.start(first)
    wait_for(lambda: pods.role(first) == "slave")
    assert pods.primaries() == [second]
    with pods.client(first) as client:
        wait_for(lambda: client.get("written") == "before")


@pytest.mark.long
@pytest.mark.parametrize("pods", [12], indirect=True)
def test_a_primary_that_comes_back_at_once_follows_the_one_that_was_chosen(pods: Pods) -> None:
    first = pods.servers[0]
    pods.start(*pods.ports)
    wait_for(pods.settled)
    assert pods.primaries() == [first]
    with pods.client(first) as client:
        client.set("written", "before")
        assert client.wait(2, 5000) == 2
    pods.kill(first)
    pods.start(first)
    wait_for(lambda: pods.settled() and pods.primaries() != [first])
    with pods.client(first) as client:
        assert client.get("written") == "before"
    begun = [line for line in (pods.folder / f"{first}.log").read_text().splitlines() if line.startswith("starting as")]
    assert begun[0] == "starting as the primary"
    assert begun[1].startswith("starting as a replica of localhost:")


@pytest.mark.long
@pytest.mark.parametrize("pods", [3], indirect=True)
def test_one_primary_and_all_data_are_there_after_every_pod_was_away(pods: Pods) -> None:
    pods.start(*pods.ports)
    wait_for(pods.settled)
    with pods.client(pods.primaries()[0]) as client:
        client.set("written", "before")
        assert client.wait(2, 5000) == 2
        time.sleep(1.5)  # appendfsync everysec
    pods.kill(*pods.ports)
    pods.start(*pods.ports)
    wait_for(pods.settled)
    with pods.client(pods.primaries()[0]) as client:
        assert client.get("written") == "before"


@pytest.mark.long
@pytest.mark.parametrize("pods", [3], indirect=True)
def test_a_primary_without_replicas_takes_no_writes(pods: Pods) -> None:
    pods.start(*pods.ports)
    wait_for(pods.settled)
    [primary] = pods.primaries()
    pods.kill(*(port for port in pods.servers if port != primary))
    with pods.client(primary) as client:
        wait_for(lambda: pods.replicas_of(primary) == 0)
        with pytest.raises(RedisError, match="NOREPLICAS"):
            client.set("written", "alone")
