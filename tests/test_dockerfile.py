"""What the image is built from. tests/drills/test_image.py builds it."""

from __future__ import annotations

import re
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest

from tests.servers import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PACKAGES = {
    name.rstrip("*")
    for name in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
}
COPIED = {word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE) for word in line.split()}


def test_hadolint_finds_nothing_and_nothing_is_ignored() -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    if not hadolint.exists():
        pytest.skip("there is no hadolint for this machine")
    done = subprocess.run([hadolint, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0)
    assert "hadolint" not in DOCKERFILE
    assert not list(ROOT.glob(".hadolint*"))


def test_every_package_is_copied_and_let_through() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert PACKAGES <= COPIED
    assert let_through == COPIED


def test_both_stages_have_the_base_that_is_asked_for() -> None:
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${BASE}", "${BASE}"]


def test_what_the_image_installs_are_the_versions_of_the_tests() -> None:
    image, run, test = (pins(name) for name in ("image", "run", "test"))
    assert run <= image
    assert image <= test, "the tests run with other versions"


def pins(name: str) -> set[str]:
    return set(re.findall(r"^\S+==[^\s;]+", (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8"), re.MULTILINE))
