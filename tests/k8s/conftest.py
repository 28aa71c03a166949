from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from shutil import copytree
from typing import TypeAlias

import pytest

from tests.k8s.rendering import K8S, Rendered, render, why_not

Edited: TypeAlias = Callable[[str, Mapping[str, str]], Rendered]


@pytest.fixture(scope="session")
def rendered() -> Callable[[str], Rendered]:
    """Renders a folder of k8s/ once, and gives a copy that a test may change."""
    reason = why_not()
    if reason is not None:
        pytest.skip(f"{reason}, so nothing is rendered")
    once = cache(lambda folder: render(K8S / folder))
    return lambda folder: Rendered(deepcopy(once(folder).objects))


@pytest.fixture
def edited(rendered: Callable[[str], Rendered], tmp_path: Path) -> Edited:
    """Renders an overlay of a copy of k8s/ after edits: by file, `old => new`."""

    def edit(overlay: str, edits: Mapping[str, str]) -> Rendered:
        copytree(K8S, tmp_path / "k8s")
        for name, change in edits.items():
            file = tmp_path / "k8s" / name
            old, new = change.split(" => ")
            text = file.read_text()
            assert old in text
            file.write_text(text.replace(old, new))
        return render(tmp_path / "k8s" / overlay)

    return edit
