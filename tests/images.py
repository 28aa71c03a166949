"""Builds the image with buildah, on a base made by debootstrap, and runs commands in its tree without a container engine."""

from __future__ import annotations

import ast
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers import ROOT

BASE, IMAGE = "localhost/base:test", "localhost/greenlang:test"
INDEX_HOST = "packages.invalid"
"""The build is given it among the settings of pip."""
DATA = "var/lib/greenlang"
_PACKAGES = "python3,python3-venv,ca-certificates"
_IGNORED_PIP_SETTINGS = {"constraint", "require-virtualenv"}


@dataclass(frozen=True)
class Buildah:
    """Its storage is in `folder`."""

    folder: Path

    def run(self, command: str, *arguments: str | Path) -> str:
        storage = ("--storage-driver", "vfs", "--root", self.folder / "storage", "--runroot", self.folder / "run")
        return said(["buildah", *storage, command, *arguments])


@dataclass(frozen=True)
class Image:
    """`tree` is the file system of the last stage. `config` is what the image says of its user, environment and commands."""

    tree: Path
    config: Mapping[str, object]
    history: str

    @property
    def environ(self) -> dict[str, str]:
        pairs = self.config["Env"]
        assert isinstance(pairs, list)
        return dict(pair.split("=", 1) for pair in pairs)

    def command(self, data: Path, *words: str, environ: Mapping[str, str] | None = None) -> list[str]:
        """Runs the words as the image's user. Its tree is read-only; `data` is the volume."""
        tree = shlex.quote(str(self.tree))
        user = self.config["User"]
        variables = shlex.join(f"{name}={value}" for name, value in (self.environ | dict(environ or {})).items())
        mounts = [
            f"mount --bind {tree} {tree}",
            f"mount -o remount,bind,ro {tree}",
            f"mount -t proc proc {tree}/proc",
            f"mount -t tmpfs -o size=64m tmpfs {tree}/dev/shm",
            f"mount --bind {shlex.quote(str(data))} {tree}/{DATA}",
            f"exec chroot --userspec={user} {tree} /usr/bin/env -i -C /{DATA} {variables} {shlex.join(words)}",
        ]
        return ["unshare", "--mount", "sh", "-ec", "\n".join(mounts)]

    def run(
        self, data: Path, *words: str, environ: Mapping[str, str] | None = None, code: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """`code` is what the command reads."""
        command = self.command(data, *words, environ=environ)
        return subprocess.run(command, input=code, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def built_image(folder: Path) -> Iterator[Image]:
    """Nothing of it is left after the block."""
    buildah = Buildah(folder)
    base = folder / "base"
    try:
        said(["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _suite(), base])
        for package in (base / "var/cache/apt/archives").glob("*.deb"):
            package.unlink()
        container = buildah.run("from", "scratch").strip()
        buildah.run("add", "--quiet", container, base, "/")
        buildah.run("commit", "--quiet", "--rm", container, BASE)
        settings, mounts = _pip_settings()
        secret = folder / "pip.conf"
        secret.write_text(settings)
        volumes = [f"--volume={path}:{path}:ro" for path in mounts]
        options = ["--isolation", "chroot", "--pull-never", "--format", "docker", "--build-arg", f"BASE={BASE}"]
        buildah.run("build", *options, "--secret", f"id=pip_conf,src={secret}", *volumes, "--tag", IMAGE, ROOT)
        found = json.loads(buildah.run("inspect", "--type", "image", IMAGE))
        container = buildah.run("from", "--pull-never", IMAGE).strip()
        tree = Path(buildah.run("mount", container).strip())
        yield Image(tree, found["Docker"]["config"], json.dumps(found))
    finally:
        shutil.rmtree(folder)


def require_tools() -> None:
    """Skips, and fails in CI, if the image cannot be built on this machine."""
    missing = [name for name in ("buildah", "debootstrap", "unshare") if shutil.which(name) is None]
    problem = f"an image needs {', '.join(missing)}: apt install buildah debootstrap" if missing else ""
    if os.geteuid() != 0:
        problem = "an image is built as root only"
    if problem and os.environ.get("CI") == "true":
        pytest.fail(problem)
    if problem:
        pytest.skip(problem)


def said(command: list[str | Path]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def _suite() -> str:
    """The Debian of this machine, else one with a Python that is new enough."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return release["VERSION_CODENAME"] if release.get("ID") == "debian" else "bookworm"


def _pip_settings() -> tuple[str, set[Path]]:
    """A pip.conf with what pip uses here, and the local paths in it. A local index has its files beside its folder `simple`."""
    found = {"trusted-host": INDEX_HOST}
    for line in said([sys.executable, "-m", "pip", "config", "list"]).splitlines():
        name, _, value = line.partition("=")
        if (key := name.rpartition(".")[2]) not in _IGNORED_PIP_SETTINGS:
            found[key] = " ".join(str(ast.literal_eval(value)).split())
    words = [word.removeprefix("file://") for value in found.values() for word in value.split()]
    local = {
        path.parent if path.name == "simple" else path for word in words if (path := Path(word)).is_absolute() and path.exists()
    }
    return "\n".join(["[global]", *(f"{key} = {value}" for key, value in found.items())]) + "\n", local
