"""The guide to documents and answers: its commands and its pieces of Python print what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import Settings, load_settings
from tests.servers import ROOT, RunningServer, start_server

pytestmark = pytest.mark.timeout(180)

PAGE = (ROOT / "docs" / "vectors.md").read_text(encoding="utf-8")
PIECE = r"```{language}\n(?P<code>.*?)```\n(?:\n```text\n(?P<printed>.*?)```)?"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with start_server(tmp_path_factory.mktemp("vectors") / "data") as running:
        yield running


def pieces(language: str) -> tuple[str, str]:
    """All pieces in one language as one text, and all that they print."""
    found = list(re.finditer(PIECE.replace("{language}", language), PAGE, re.DOTALL))
    assert len(found) == PAGE.count(f"```{language}") >= 5
    return "".join(piece["code"] for piece in found), "".join(piece["printed"] or "" for piece in found)


def run(server: RunningServer, folder: Path, *command: str) -> str:
    assert server.key is not None
    environ = os.environ | {"GREENLANG_URL": server.url, "GREENLANG_KEY": server.key}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_every_command_runs_as_it_is_printed(server: RunningServer, tmp_path: Path) -> None:
    code, printed = pieces("sh")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    program = tmp_path / ".venv" / "bin" / "greenlang"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m app.cli "$@"\n')
    program.chmod(0o755)

    assert run(server, tmp_path, "sh", "-eu", "-c", code) == printed


def test_every_piece_of_python_runs_as_it_is_printed(server: RunningServer, tmp_path: Path) -> None:
    code, printed = pieces("python")

    assert run(server, tmp_path, sys.executable, "-c", code) == printed


def test_its_configuration_loads(tmp_path: Path) -> None:
    for number, text in enumerate(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)):
        file = tmp_path / f"{number}.toml"
        file.write_text(text, encoding="utf-8")
        assert load_settings(file, {}) != Settings()
