from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.llm.providers.lean_import import import_lean

_LOADED = """
import importlib, sys
{statement}
print(sum(name.split(".")[0] == "{sdk}" for name in sys.modules))
"""
_SAME_NAMES = """
import sys
from app.llm.providers.lean_import import import_lean, origins_of
import_lean("app.llm.providers.{sdk}.client", "{sdk}")
packages = [name for name in sys.modules if name == "{sdk}" or name.startswith("{sdk}.types")]
compared = 0
for package in [sys.modules[name] for name in packages if hasattr(sys.modules[name], "__path__")]:
    lean = {{name: getattr(package, name) for name in origins_of(package)}}
    assert getattr(package, "no_such_name", None) is None
    whole = vars(package)
    print(*[f"{{package.__name__}}.{{name}} differs" for name in lean if whole.get(name, lean[name]) is not lean[name]])
    compared += len(lean)
print("compared", compared)
"""


def _run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def _write(folder: Path, **files: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)


@pytest.mark.parametrize("sdk", ["anthropic", "openai"])
class TestSdks:
    def test_an_adapter_leaves_out_most_of_what_its_sdk_loads(self, sdk: str) -> None:
        lean = f"from app.llm.providers.lean_import import import_lean; import_lean('app.llm.providers.{sdk}.client', '{sdk}')"

        found, whole = (int(_run(_LOADED.format(sdk=sdk, statement=each))) for each in (lean, f"import {sdk}"))

        assert 0 < found < whole / 2

    def test_every_name_is_still_what_the_sdk_says(self, sdk: str) -> None:
        shown = _run(_SAME_NAMES.format(sdk=sdk)).splitlines()

        assert [line for line in shown if line.endswith("differs")] == []
        assert int(shown[-1].removeprefix("compared ")) > 300


class TestPackages:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        monkeypatch.syspath_prepend(tmp_path)
        yield tmp_path
        for name in [name for name in sys.modules if name.startswith("lean_")]:
            del sys.modules[name]

    def test_a_listed_name_loads_its_own_module_alone(self, folder: Path) -> None:
        _write(folder / "lean_sdk", __init__="from ._a import A as B\nfrom ._b import C", _a="A = 1", _b="C = 2")
        _write(folder, lean_adapter="from lean_sdk import B")

        adapter = import_lean("lean_adapter", "lean_sdk")

        assert adapter.B == 1
        assert "lean_sdk._b" not in sys.modules

    def test_a_name_that_no_import_gives_is_found_by_running_the_package(self, folder: Path) -> None:
        _write(folder / "lean_sdk", __init__="from ._a import A\nTWICE = A * 2", _a="A = 1")
        _write(folder, lean_adapter="from lean_sdk import TWICE")

        assert import_lean("lean_adapter", "lean_sdk").TWICE == 2

    def test_a_package_whose_order_matters_is_imported_as_it_is(self, folder: Path) -> None:
        _write(folder / "lean_sdk", __init__="BASE = 1\nfrom ._a import A", _a="from . import BASE\nA = BASE + 1")
        _write(folder, lean_adapter="from lean_sdk import A")

        assert import_lean("lean_adapter", "lean_sdk").A == 2

    def test_a_name_that_does_not_exist_is_said_as_ever(self, folder: Path) -> None:
        _write(folder / "lean_sdk", __init__="from ._a import A", _a="A = 1")
        _write(folder, lean_adapter="from lean_sdk import Gone")

        with pytest.raises(ImportError, match="cannot import name 'Gone'"):
            import_lean("lean_adapter", "lean_sdk")
