"""The guide to documents and answers: its commands and its pieces of Python print what the page says, with two server processes,
in every kind of store."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.settings import Settings, load_settings
from tests.pinecone_simulators import start_pinecone
from tests.servers import ROOT, RunningServer, start_server

pytestmark = pytest.mark.timeout(240)

PAGE = (ROOT / "docs" / "vectors.md").read_text(encoding="utf-8")
PIECE = r"```{language}\n(?P<code>.*?)```\n(?:\n```text\n(?P<printed>.*?)```)?"


PGVECTOR = "pgvector"
STORES = [PGVECTOR, pytest.param("chroma", marks=pytest.mark.drill), pytest.param("pinecone", marks=pytest.mark.drill)]


@pytest.fixture(scope="module", params=STORES)
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The store is the default one. Chroma is private, and Pinecone is its simulator."""
    folder = tmp_path_factory.mktemp("vectors")
    with ExitStack() as stack:
        more = ""
        if store == "pinecone":
            address = stack.enter_context(start_pinecone()).address
            more = f'host = "{address}"\napi_key = {{ env = "SIMULATED_PINECONE" }}\n'
        text = f'[vectors]\ndefault_store = "{store}"\n'
        if store != PGVECTOR:
            text += f'[[vectors.stores]]\nname = "{store}"\nkind = "{store}"\n{more}'
        config = folder / "greenlang.toml"
        config.write_text(text, encoding="utf-8")
        environ = {"SIMULATED_PINECONE": "simulated"}
        arguments = ("--workers", "2", "--config", str(config))
        yield stack.enter_context(start_server(folder / "data", *arguments, environ=environ))


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


def test_every_command_runs_as_it_is_printed(server: RunningServer, store: str, tmp_path: Path) -> None:
    code, printed = pieces("sh")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    program = tmp_path / ".venv" / "bin" / "greenlang"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m app.cli "$@"\n')
    program.chmod(0o755)

    assert run(server, tmp_path, "sh", "-eu", "-c", code) == printed.replace(PGVECTOR, store)


def test_every_piece_of_python_runs_as_it_is_printed(server: RunningServer, tmp_path: Path) -> None:
    code, printed = pieces("python")

    assert run(server, tmp_path, sys.executable, "-c", code) == printed


def test_its_configuration_loads(tmp_path: Path) -> None:
    for number, text in enumerate(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)):
        file = tmp_path / f"{number}.toml"
        file.write_text(text, encoding="utf-8")
        assert load_settings(file, {}) != Settings()
