"""docs/troubleshooting.md names only codes and metrics that exist."""

from __future__ import annotations

import re
from pathlib import Path

from tests.servers import ROOT

TEXT = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")


def named(pattern: str) -> set[str]:
    return set(re.findall(pattern, TEXT))


def sources(folder: str) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in Path(ROOT / folder).rglob("*.py"))


def test_every_code_is_in_the_contract() -> None:
    contract = (ROOT / "tests" / "schema" / "contract.graphql").read_text(encoding="utf-8")
    codes = named(r"`([A-Z][A-Z_]{5,})`")
    assert len(codes) > 8
    assert {code for code in codes if not re.search(rf"\b{code}\b", contract)} == set()


def test_every_metric_is_one_of_the_server() -> None:
    code = sources("app")
    metrics = named(r"`(greenlang_[a-z_]+)`")
    assert len(metrics) > 5
    assert {name for name in metrics if re.sub("_(total|info)$", "", name) not in code} == set()
