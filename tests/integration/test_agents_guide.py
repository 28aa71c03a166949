"""The guide for agents: its pieces, put together, print what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pdfs import plain_pdf
from tests.servers import ROOT, start_server

pytestmark = pytest.mark.timeout(180)

PIECE = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<printed>.*?)```)?", re.DOTALL)


def test_every_piece_runs_as_it_is_printed(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8")
    pieces = list(PIECE.finditer(page))
    assert len(pieces) == page.count("```python") > 10
    (tmp_path / "agent.py").write_text("".join(piece["code"] for piece in pieces))
    (tmp_path / "report.pdf").write_bytes(plain_pdf())
    with start_server(tmp_path / "data") as server:
        assert server.key is not None
        environ = os.environ | {"GREENLANG_URL": server.url, "GREENLANG_KEY": server.key}
        ran = subprocess.run(
            [sys.executable, "agent.py"], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False
        )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "".join(piece["printed"] or "" for piece in pieces)
