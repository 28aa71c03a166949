from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def folder_without_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A greenlang.toml of the folder that the tests run in is none of their business."""
    monkeypatch.chdir(tmp_path)
