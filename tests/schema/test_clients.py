"""What client developers do first with our schema: lint it, generate types from it, compile against them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from schema.export import EXPORTED
from tests.npm import install, run

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    installed = install(Path(__file__).with_name("node"), tmp_path_factory.mktemp("npm"))
    shutil.copy(EXPORTED, installed)
    return installed


class TestTheExportedSchema:
    def test_passes_the_recommended_rules_of_graphql_eslint(self, project: Path) -> None:
        done = run(project, "npx", "eslint", "--max-warnings", "0", "schema.graphql")
        assert done.returncode == 0, done.stdout

    def test_the_rules_would_find_a_fault(self, project: Path) -> None:
        faulty = EXPORTED.read_text(encoding="utf-8") + "\ntype bad_name { it: Int }\n"
        (project / "faulty.graphql").write_text(faulty, encoding="utf-8")
        done = run(project, "npx", "eslint", "faulty.graphql")
        (project / "faulty.graphql").unlink()
        assert done.returncode == 1
        assert "PascalCase" in done.stdout

    def test_gives_types_that_a_strict_client_compiles_against(self, project: Path) -> None:
        generated = run(project, "npx", "graphql-codegen", "--config", "codegen.ts")
        assert generated.returncode == 0, generated.stderr
        compiled = run(project, "npx", "tsc", "--project", "tsconfig.json")
        assert compiled.returncode == 0, compiled.stdout
