"""Node projects of the tests: installed from their lock files into a folder of the test session. What a machine lacks for them
skips their tests, and fails them in CI."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

_AWAY = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH")


def install(project: Path, into: Path) -> Path:
    """A copy of the project with its packages."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        lacking("needs node and npm")
    copied = Path(shutil.copytree(project, into / project.name, ignore=shutil.ignore_patterns("node_modules", "generated")))
    done = run(copied, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
    if done.returncode and any(reason in done.stderr for reason in _AWAY):
        lacking("needs the npm registry")
    assert done.returncode == 0, done.stderr
    return copied


def lacking(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=300, check=False)
