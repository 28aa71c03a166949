"""One configuration from defaults, a file, the environment and the command line. Each of these overrides the ones before it.

The first fault stops the start. The error names its place, where it was written and what is allowed. It repeats no text that
was read, except names of keys, providers and models, because a secret may have been written in the wrong place.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from app.domain.errors import SettingsError
from app.settings.checks import faults
from app.settings.defaults import with_defaults
from app.settings.groups import Settings
from app.settings.overrides import Override, environment_overrides
from app.settings.shape import Place, format_place, keys_of, type_at, unknown_key

DEFAULT_FILE: Final = Path("greenlang.toml")


def load_settings(config: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object] | None = None) -> Settings:
    """Without `config`, ./greenlang.toml is read if it exists. The keys of `overrides` are like `server.port`; a value of None
    is ignored.

    Raises SettingsError.
    """
    file = config if config is not None else DEFAULT_FILE
    tree = _read(file) if config is not None or file.exists() else {}
    written = (*environment_overrides(environ), *_command_line(overrides or {}))
    for override in written:
        _put(tree, override)
    sources = {override.place: override.source for override in written}
    _refuse_simulated(tree, sources, file)
    try:
        settings = with_defaults(Settings.model_validate(tree), environ)
    except ValidationError as error:
        raise _explain(error, sources, file) from None
    for place, problem in faults(settings):
        raise _fault(place, problem, sources, file)
    return settings


def _read(file: Path) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(str(file), f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(str(file), "it is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(str(file), f"it is not TOML: {error}") from None


def _command_line(overrides: Mapping[str, object]) -> tuple[Override, ...]:
    return tuple(Override(tuple(key.split(".")), value, "command line") for key, value in overrides.items() if value is not None)


def _put(tree: dict[str, object], override: Override) -> None:
    here: Any = tree
    for end, (step, below) in enumerate(pairwise(override.place), 1):
        _check_step(here, step, override, end)
        here = here.setdefault(step, [] if isinstance(below, int) else {}) if isinstance(here, dict) else here[step]
    _check_step(here, override.place[-1], override, len(override.place))
    here[override.place[-1]] = override.value


def _check_step(here: object, step: str | int, override: Override, end: int) -> None:
    if isinstance(here, dict) or (isinstance(here, list) and isinstance(step, int) and step < len(here)):
        return
    raise SettingsError(format_place(override.place[:end]), f"there is no such item to change ({override.source})")


def _refuse_simulated(tree: Mapping[str, object], sources: Mapping[Place, str], file: Path) -> None:
    providers = tree.get("providers")
    for index, provider in enumerate(providers if isinstance(providers, list) else ()):
        if isinstance(provider, dict) and "simulated" in provider:
            raise _fault(("providers", index, "simulated"), unknown_key(("providers", index, "simulated")), sources, file)


def _explain(error: ValidationError, sources: Mapping[Place, str], file: Path) -> SettingsError:
    first = error.errors(include_input=False, include_url=False)[0]
    place = first["loc"]
    return _fault(place, _right(first, place), sources, file)


def _right(error: ErrorDetails, place: Place) -> str:
    """What is allowed, in our words, or in pydantic's if they are clear enough."""
    match error["type"]:
        case "extra_forbidden":
            return unknown_key(place)
        case "missing":
            return "it is missing"
        case "value_error":
            return str(error["ctx"]["error"])
        case "tuple_type":
            return "it should be a list"
        case "model_type":
            return f"it should be a table with the keys {', '.join(keys_of(type_at(place)))}"
    return error["msg"].replace("Input should", "it should")


def _fault(place: Sequence[str | int], problem: str, sources: Mapping[Place, str], file: Path) -> SettingsError:
    steps = tuple(place)
    source = next((sources[steps[:end]] for end in range(len(steps), 0, -1) if steps[:end] in sources), str(file))
    return SettingsError(format_place(steps), f"{problem} ({source})")
