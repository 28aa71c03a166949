"""Imports an SDK without the thousands of types that it names and that the adapters never use.

Each `__init__` of the SDKs imports every name of the API from a separate module. While an adapter is imported, the SDK's root
and its `types` are made without these imports, and a name is loaded when it is first used, as PEP 562 allows. A name that is
not listed leads to the real `__init__`. If an SDK cannot be read in this way, it is imported as usual. So nothing can be
missing; only the start gets slower.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType


def import_lean(adapter: str, sdk: str) -> ModuleType:
    """Imports the module `adapter`, the only one that imports the package `sdk`. Raises ImportError."""
    if adapter in sys.modules:
        return sys.modules[adapter]
    finder = _Finder(sdk)
    sys.meta_path.insert(0, finder)
    try:
        return importlib.import_module(adapter)
    except (ImportError, AttributeError):
        for name in [name for name in sys.modules if name == adapter or _is_within(name, sdk)]:
            del sys.modules[name]
    finally:
        sys.meta_path.remove(finder)
    return importlib.import_module(adapter)


class _Finder(MetaPathFinder):
    def __init__(self, sdk: str) -> None:
        self._sdk = sdk

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self._sdk and not _is_within(name, f"{self._sdk}.types"):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None and spec.submodule_search_locations is not None:
            spec.loader = _Deferred(spec.loader)
        return spec


class _Deferred(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        origins: dict[str, tuple[str, str]] = {}

        def load(name: str) -> object:
            if not origins:
                origins.update(origins_of(module))
            try:
                value = _load_alone(module.__name__, name, origins.get(name))
            except (ImportError, AttributeError):
                return self._load_all(module, name)
            setattr(module, name, value)
            return value

        module.__getattr__ = load  # type: ignore[method-assign]  # PEP 562

    def _load_all(self, module: ModuleType, name: str) -> object:
        """If loading fails, the import is deferred again, because one of its own imports may have asked for it."""
        deferred = module.__dict__.pop("__getattr__")
        try:
            self._loader.exec_module(module)
        except BaseException:
            module.__getattr__ = deferred  # type: ignore[method-assign]  # PEP 562
            raise
        return getattr(module, name)


def _load_alone(package: str, name: str, origin: tuple[str, str] | None) -> object:
    if origin is None:
        return importlib.import_module(f"{package}.{name}")
    value: object = getattr(importlib.import_module(origin[0]), origin[1])
    return value


def origins_of(package: ModuleType) -> dict[str, tuple[str, str]]:
    """What the package's `__init__` imports from its own modules: each name, the module it comes from, and its name there."""
    assert package.__file__ is not None
    statements = ast.parse(Path(package.__file__).read_bytes()).body
    return {
        alias.asname or alias.name: (f"{package.__name__}.{statement.module}", alias.name)
        for statement in statements
        if isinstance(statement, ast.ImportFrom) and statement.level == 1 and statement.module
        for alias in statement.names
        if alias.name != "*"
    }


def _is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")
