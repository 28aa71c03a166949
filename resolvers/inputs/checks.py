"""Checks that apply to every input. A refusal names the field by its path in the input's own words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import TypeAlias

from strawberry.types.unset import UnsetType
from strawberry.utils.str_converters import to_camel_case

from app.domain.errors import Refused
from app.domain.problems import InvalidInput

Path: TypeAlias = tuple[str, ...]
UNBOUNDED: Mapping[object, object] = {"unbounded": True}
"""Metadata of a JSON field that takes back what a completion returned. Only the limits of the body apply to it."""


def invalid(message: str, path: Path) -> Refused:
    return Refused(InvalidInput(message, path))


def unfit_text(text: str) -> str | None:
    """Says why a text cannot be stored and sent; None if it can."""
    if "\0" in text:
        return "contains the character NUL"
    if not text.isascii():
        try:
            text.encode()  # takes a fraction of what a search takes
        except UnicodeEncodeError:
            return "contains half of a surrogate pair"
    return None


def check_texts(value: object, path: Path = ()) -> None:
    """Checks all texts of an input object and refuses the first one that cannot be stored. JSON values are checked by their
    scalar."""
    if found := _find_unfit(value):
        problem, below = found
        raise invalid(f"The text {problem}.", (*path, *below))


def _find_unfit(value: object) -> tuple[str, Path] | None:
    if isinstance(value, str):
        problem = unfit_text(value)
        return None if problem is None else (problem, ())
    if isinstance(value, list):
        branches: Iterable[tuple[object, object]] = enumerate(value)
    elif value is None or isinstance(value, (bool, int, float, Enum, dict, Decimal, datetime, UnsetType)):
        return None
    else:
        branches = vars(value).items()
    for name, branch in branches:
        if found := _find_unfit(branch):
            return found[0], (to_camel_case(str(name)), *found[1])
    return None


def check_length(text: str | None, maximum: int, path: Path) -> None:
    if text is not None and not 1 <= len(text) <= maximum:
        raise invalid(f"The text has {len(text)} characters; 1 to {maximum} are allowed.", path)


def check_range(number: float | None, minimum: float, maximum: float, path: Path) -> None:
    """Refuses NaN too."""
    if number is not None and not minimum <= number <= maximum:
        raise invalid(f"The number is {_written(number)}; {_written(minimum)} to {_written(maximum)} are allowed.", path)


def _written(number: float) -> str:
    """In plain digits, whatever the size."""
    return format(Decimal(str(number)).normalize(), "f")


def check_count(items: Sequence[object] | None, maximum: int, path: Path) -> None:
    if items is not None and len(items) > maximum:
        raise invalid(f"There are {len(items)}; at most {maximum} are allowed.", path)


def check_names(names: Sequence[str] | None, maximum: int, max_length: int, path: Path) -> tuple[str, ...]:
    """At most `maximum` texts of 1 to `max_length` characters each."""
    check_count(names, maximum, path)
    for position, name in enumerate(names or ()):
        check_length(name, max_length, (*path, str(position)))
    return tuple(names or ())


def check_distinct(keys: Iterable[str], path: Path) -> None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise invalid(f"{key!r} is given twice.", path)
        seen.add(key)
