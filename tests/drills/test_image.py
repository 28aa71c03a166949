"""The image is built for real, and its tree runs as its user on a read-only file system with one writable folder."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.clusters import PASSWORD, SERVICE, running_cluster
from tests.images import DATA, INDEX_HOST, Image, built_image, require_tools
from tests.integration.test_accounting import COSTS, complete_many
from tests.processes import wait_gone, wait_until
from tests.redis_servers import free_ports
from tests.servers import Client, RunningServer

pytestmark = [pytest.mark.drill, pytest.mark.long, pytest.mark.timeout(900)]

EMPTY, CALLS = "empty", 60
COMPILERS = ("gcc", "cc", "g++", "c++", "clang", "ld", "make", "rustc", "cargo")
WRITE_EVERYWHERE = """
import os
written = []
for folder, below, _ in os.walk("/"):
    below[:] = [name for name in below if os.path.join(folder, name) not in ("/proc", "/sys", "/dev", "/DATA")]
    try:
        open(os.path.join(folder, "written"), "x").close()
        written.append(folder)
    except OSError:
        pass
open("/DATA/written", "x").close()
os.remove("/DATA/written")
print(written)
""".replace("DATA", DATA)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    require_tools()
    with built_image(tmp_path_factory.mktemp("image")) as image:
        yield image


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """It belongs to root and everyone may write there, as in an empty volume of a cluster."""
    folder = tmp_path / "volume"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


@contextmanager
def serving(image: Image, volume: Path, **environ: str) -> Iterator[RunningServer]:
    (port,) = free_ports(1)
    variables = {"GREENLANG_SERVER__PORT": str(port)} | environ
    log = volume.with_name("serve.log")
    with log.open("w") as output:
        process = subprocess.Popen(
            image.command(volume, *entry(image), environ=variables), stdout=output, stderr=output, text=True
        )
    try:
        wait_until(lambda: process.poll() is not None or "\n  data " in log.read_text(), 90)
        assert process.poll() is None, log.read_text()
        key = (volume / "data" / "first-key").read_text().strip()
        yield RunningServer(f"http://127.0.0.1:{port}", key, volume / "data", process, log.read_text(), 0)
    finally:
        everything = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        process.wait(60)
        wait_gone(everything)


def entry(image: Image) -> list[str]:
    entrypoint, command = image.config["Entrypoint"], image.config["Cmd"]
    assert isinstance(entrypoint, list)
    assert isinstance(command, list)
    return [*entrypoint, *command]


class TestRunningTree:
    def test_serves_with_stores_elsewhere_and_writes_nowhere_else(self, image: Image, volume: Path, valkey_url: str) -> None:
        with running_cluster(1) as cluster:
            asyncio.run(cluster.primary.execute(f"create database {EMPTY} owner {SERVICE}"))
            primary = f"postgresql://{SERVICE}:{PASSWORD}@{cluster.primary.address}/{EMPTY}"
            with serving(image, volume, GREENLANG_DATABASE__PRIMARY=primary, GREENLANG_REDIS__URL=valkey_url) as server:
                asyncio.run(complete(server))
                port = {"GREENLANG_SERVER__PORT": server.address.rpartition(":")[2]}
                assert image.run(volume, "greenlang", "health", environ=port).stdout == '{"status":"ok"}\n'
                ready = image.run(volume, "greenlang", "health", "--probe", "ready", environ=port)
                assert json.loads(ready.stdout)["status"] in {"ok", "degraded"}
                found = image.run(volume, "python3", "-", code=WRITE_EVERYWHERE)
                assert (found.stdout, found.stderr) == ("[]\n", "")
                assert {user(each) for each in psutil.Process(server.process.pid).children(recursive=True)} == {10001}
            gone = image.run(volume, "greenlang", "health", environ=port)
            assert (gone.returncode, "does not answer" in gone.stderr) == (1, True)

    def test_serves_with_the_stores_in_it(self, image: Image, volume: Path) -> None:
        with serving(image, volume) as server:
            asyncio.run(complete(server))
            with urllib.request.urlopen(f"{server.address}/ready") as answer:
                assert json.load(answer)["checks"]["postgresql"]["ok"]


class TestContents:
    def test_has_no_compiler_no_pip_and_no_file_that_changes_the_user(self, image: Image, volume: Path) -> None:
        files = [path for path in image.tree.rglob("*") if path.is_file() and not path.is_symlink()]
        assert [str(path) for path in files if path.stat().st_mode & 0o6000] == []
        assert [path for path in image.tree.rglob("bin/*") if path.name in COMPILERS or path.name.startswith("pip")] == []
        for module in ("pip", "ensurepip", "setuptools"):
            assert image.run(volume, "python3", "-m", module).returncode == 1
        assert image.run(volume, "/usr/bin/env", "which", "curl").returncode != 0

    def test_names_its_user_its_volume_and_its_check(self, image: Image) -> None:
        config = image.config
        assert (config["User"], config["Volumes"], list(entry(image))) == (
            "10001:10001",
            {f"/{DATA}": {}},
            ["greenlang", "serve"],
        )
        check = config["Healthcheck"]
        assert isinstance(check, dict)
        assert check["Test"] == ["CMD", "greenlang", "health"]

    def test_names_no_package_index(self, image: Image) -> None:
        assert INDEX_HOST not in image.history
        files = [path for path in image.tree.rglob("*") if path.is_file() and not path.is_symlink()]
        assert [path for path in files if INDEX_HOST.encode() in path.read_bytes()] == []

    def test_prints_its_size_and_its_packages(self, image: Image, volume: Path, capsys: pytest.CaptureFixture[str]) -> None:
        code = "from importlib.metadata import distributions as d; print(len({each.name for each in d()}))"
        packages = int(image.run(volume, "python3", "-c", code).stdout)
        installed = len(list((image.tree / "var/lib/dpkg/info").glob("*.list")))
        own, all_ = (sum(file.lstat().st_size for file in folder.rglob("*")) for folder in (image.tree / "opt", image.tree))
        line = f"image: {all_ / 1e6:.0f} MB, {own / 1e6:.0f} of them ours; {packages} Python and {installed} Debian packages"
        with capsys.disabled():
            sys.stdout.write(f"\n{line}\n")
        assert 30 < packages < 120
        assert own < 450e6


def user(process: psutil.Process) -> int:
    return process.uids().effective


async def complete(server: RunningServer) -> None:
    assert server.key is not None
    async with aiohttp.ClientSession() as session:
        client = Client(session, server, server.key)
        answers = await complete_many(client, CALLS)
        costs = (await client.execute(COSTS))["costs"]
    assert {answer["__typename"] for answer in answers} == {"Completion"}
    assert isinstance(costs, dict)
    assert costs["totals"]["requests"] == str(CALLS)
