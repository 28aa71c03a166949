"""The structure of the configuration, derived from its groups: the keys of each place, and their types."""

from __future__ import annotations

import types
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel

from app.settings.groups import Settings

Place: TypeAlias = tuple[str | int, ...]

_SET_BY_US = frozenset({"simulated"})


def format_place(place: Sequence[str | int]) -> str:
    """Formats a place as `providers[0].base_url`."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def keys_of(group: type[BaseModel]) -> list[str]:
    return [key for key in group.model_fields if key not in _SET_BY_US]


def bare_type(annotation: Any) -> Any:
    """The type without its constraints and without None."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in {Union, types.UnionType}:
            annotation = next(part for part in get_args(annotation) if part is not types.NoneType)
        else:
            return annotation


def type_at(place: Sequence[str | int]) -> Any:
    """The bare type of a place; None if there is no such place."""
    found: Any = Settings
    for step in place:
        if isinstance(step, int):
            found = bare_type(get_args(found)[0]) if get_origin(found) is tuple else None
        elif isinstance(found, type) and issubclass(found, BaseModel) and step in keys_of(found):
            found = bare_type(found.model_fields[step].annotation)
        else:
            return None
    return found


def unknown_key(place: Sequence[str | int]) -> str:
    """What is allowed instead of the place's last key."""
    group = type_at(place[:-1])
    if not (isinstance(group, type) and issubclass(group, BaseModel)):
        return "unknown key; no keys are below this one"
    known = keys_of(group)
    close = get_close_matches(str(place[-1]), known, n=1)
    return f"unknown key; did you mean {close[0]}?" if close else f"unknown key; known are {', '.join(known)}"
