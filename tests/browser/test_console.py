"""The console in a real browser: what a person sees who opens the address that `make run` prints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests import npm
from tests.servers import start_server

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture
def browser() -> str:
    """The path of a Chromium; without one the test is skipped, but never in CI."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or npm.lacking("needs Chromium: apt install chromium")


@pytest.fixture
def seen(browser: str, tmp_path: Path) -> dict[str, Any]:
    """What a new user with the first key saw."""
    project = npm.install(Path(__file__).parent, tmp_path)
    with start_server(tmp_path / "data") as server:
        assert server.key is not None
        done = npm.run(project, "node", "console.mjs", server.address, server.key, browser)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)  # what the page showed, as JSON
    return found


class TestNewUser:
    def test_runs_the_first_example_and_a_document_of_their_own(self, seen: dict[str, Any]) -> None:
        assert seen["first"]["data"]["completionCreate"]["status"] == "FINISHED"
        assert seen["second"]["data"] == {"viewer": {"tenant": "default", "keyName": "administrator"}}
        assert "Simulator" in seen["notice"]
        assert seen["foreign"] == []
        assert seen["complaints"] == []
