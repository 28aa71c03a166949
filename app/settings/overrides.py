"""`GREENLANG_SECTION__KEY` in the environment, for every key: `__` goes one step down, a number picks an item of a list.

The text is converted to the key's type. Lists and tables are TOML or JSON. Lists of plain values may be separated by commas. If
the key is a secret, the text itself is the secret, and the key becomes a reference to this variable. An empty variable counts
as one that is not set.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel

from app.domain.errors import SettingsError
from app.secrets.reference import SecretReference
from app.settings.groups import Settings
from app.settings.shape import Place, bare_type, format_place, keys_of, type_at, unknown_key

PREFIX: Final = "GREENLANG_"
_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})


@dataclass(frozen=True, slots=True)
class Override:
    place: Place
    value: object
    source: str


def environment_overrides(environ: Mapping[str, str]) -> tuple[Override, ...]:
    """Returns whole sections first, then what is inside them. Raises SettingsError if a variable has an unknown key or a wrong
    value."""
    found = [
        Override(place, _coerce(type_at(place), environ[name], name, place), f"environment {name}")
        for name, place in _places(environ)
        if environ[name].strip()
    ]
    return tuple(sorted(found, key=lambda override: len(override.place)))


def _places(environ: Mapping[str, str]) -> Iterator[tuple[str, Place]]:
    for name in sorted(environ):
        if not name.startswith(PREFIX):
            continue
        rest = name[len(PREFIX) :].lower()
        place: Place = tuple(int(step) if step.isdecimal() else step for step in rest.split("__"))
        if type_at(place) is not None:
            yield name, place
        elif len(place) > 1:
            unknown = _first_unknown(place)
            raise SettingsError(format_place(unknown), f"{unknown_key(unknown)} (environment {name})")
        elif meant := _with_one_underscore(rest):
            raise SettingsError(name, f"unknown; did you mean {PREFIX}{meant.upper()}?")


def _first_unknown(place: Place) -> Place:
    return next(place[: end + 1] for end in range(len(place)) if type_at(place[: end + 1]) is None)


def _with_one_underscore(rest: str) -> str | None:
    """`server_port` most likely means `server__port`."""
    for section in keys_of(Settings):
        key = rest.removeprefix(f"{section}_")
        if key != rest and type_at((section, key)) is not None:
            return f"{section}__{key}"
    return None


def _coerce(kind: Any, text: str, name: str, place: Place) -> object:
    def refuse(right: str) -> SettingsError:
        return SettingsError(format_place(place), f"it should be {right} (environment {name})")

    if get_origin(kind) is tuple:
        return _coerce_list(bare_type(get_args(kind)[0]), text, name, refuse)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return _coerce_table(kind, text, name, refuse)
    if kind is bool:
        if text.strip().lower() not in _TRUE | _FALSE:
            raise refuse("true or false")
        return text.strip().lower() in _TRUE
    return _coerce_number(kind, text, refuse) if kind in {int, float} else text


def _coerce_number(kind: type[int] | type[float], text: str, refuse: Callable[[str], SettingsError]) -> int | float:
    try:
        return kind(text)
    except ValueError:
        raise refuse("a whole number" if kind is int else "a number") from None


def _coerce_table(kind: type[BaseModel], text: str, name: str, refuse: Callable[[str], SettingsError]) -> object:
    value = _parse(text)
    if isinstance(value, dict):
        return value
    if kind is SecretReference:
        return {"env": name}
    raise refuse(f"a TOML or JSON table with the keys {', '.join(keys_of(kind))}")


def _coerce_list(kind: Any, text: str, name: str, refuse: Callable[[str], SettingsError]) -> object:
    value = _parse(text)
    if isinstance(value, list):
        return value
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [_coerce_table(kind, text, name, refuse)]
    items = [item.strip() for item in text.split(",") if item.strip()]
    return [_coerce_number(int, item, refuse) for item in items] if kind is int else items


def _parse(text: str) -> object:
    """Parses the text as a TOML or JSON value; None if it is neither."""
    try:
        table = tomllib.loads(f"value = {text.strip()}")
        return table["value"] if len(table) == 1 else None
    except tomllib.TOMLDecodeError:
        pass
    try:
        return json.loads(text)
    except ValueError:
        return None
