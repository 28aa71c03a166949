"""Clients that work with the schema as it was committed go on working."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from graphql import GraphQLSchema, build_schema
from graphql.utilities import find_breaking_changes

from schema import build
from schema.export import EXPORTED
from tests.core_schema import core_schema

ROOT = Path(__file__).parents[2]

DECIDED: set[str] = set()
"""Breaking changes, in graphql-core's words, that a record in docs/decisions has decided on."""


def breaking(old: GraphQLSchema, new: GraphQLSchema) -> list[str]:
    return [change.description for change in find_breaking_changes(old, new) if change.description not in DECIDED]


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


class TestBreakingChanges:
    def test_none_against_the_committed_schema(self) -> None:
        assert breaking(build_schema(EXPORTED.read_text(encoding="utf-8")), core_schema(build.build_schema())) == []

    def test_none_against_the_ten_versions_before(self) -> None:
        if shutil.which("git") is None or not git("rev-parse", "HEAD"):
            pytest.skip("needs git and the repository's history")
        path = EXPORTED.relative_to(ROOT).as_posix()
        ours = core_schema(build.build_schema())
        versions = [git("show", f"{commit}:{path}") for commit in git("log", "-10", "--format=%H", "--", path).split()]
        assert [breaking(build_schema(text), ours) for text in versions] == [[]] * len(versions)

    def test_one_would_be_found(self) -> None:
        old = EXPORTED.read_text(encoding="utf-8")
        assert breaking(build_schema(old), build_schema(old.replace("keyName: String!", "keyTitle: String!", 1))) == [
            "Field Viewer.keyName was removed."
        ]
