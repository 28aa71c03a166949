"""Rules no linter knows: the sizes that keep a reader's head above water, and what must never be committed."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONGEST_FILE = 500
LONGEST_FUNCTION = 60
BANNED_NAMES = {"utils", "helpers", "common", "manager"}
SOURCE_ENDINGS = {".py", ".ts", ".js", ".mjs", ".css", ".html", ".lua"}


def tracked_files() -> list[Path]:
    """What git tracks, or, outside a checkout, every file that is not somebody's cache."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def python_files() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".py"]


class TestSizes:
    def test_no_source_file_is_longer_than_five_hundred_lines(self) -> None:
        long = {
            str(path.relative_to(ROOT)): length
            for path in tracked_files()
            if path.suffix in SOURCE_ENDINGS and (length := len(path.read_text().splitlines())) > LONGEST_FILE
        }
        assert long == {}

    def test_no_function_is_longer_than_sixty_lines(self) -> None:
        long = {
            f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": length
            for path in python_files()
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST_FUNCTION
        }
        assert long == {}


class TestNames:
    def test_no_module_is_named_by_what_it_is_not(self) -> None:
        assert [path for path in python_files() if path.stem in BANNED_NAMES] == []


class TestWhatIsNeverCommitted:
    @pytest.mark.parametrize(
        "pattern",
        [
            pytest.param(r'"resolved":\s*"https?:', id="a lock file's download address"),
            pytest.param(r"^\s*--(extra-)?index-url", id="a package server's address"),
            pytest.param(r"sk-(ant|proj)-[A-Za-z0-9_-]{20,}", id="a provider's key"),
        ],
    )
    def test_no_tracked_file_holds(self, pattern: str) -> None:
        found = [
            str(path.relative_to(ROOT))
            for path in tracked_files()
            if path != Path(__file__)
            and path.suffix not in {".png", ".ico"}
            and re.search(pattern, path.read_text(), re.MULTILINE)
        ]
        assert found == []
