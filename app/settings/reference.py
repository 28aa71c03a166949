"""Writes docs/settings.md: every key with its type and default from the settings, and its text from greenlang.example.toml.

Run: python -m app.settings.reference
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from app.secrets.reference import SecretReference
from app.settings.durations import format_duration
from app.settings.groups import Settings
from app.settings.shape import bare_type

_ROOT = Path(__file__).parents[2]
EXAMPLE: Final = _ROOT / "greenlang.example.toml"
PAGE: Final = _ROOT / "docs" / "settings.md"
_SECTION = re.compile(r"#?\[\[?([a-z_.]+)\]\]?")
_KEY = re.compile(r"#?([a-z_0-9]+) = (.+)")
_HEAD = """# Every setting

`python -m app.settings.reference` writes this page from the settings and from the
[example](../greenlang.example.toml). [Configuration](configuration.md) explains where values come from and what belongs together.

The key `port` of the section `server` is `GREENLANG_SERVER__PORT` in the environment. Durations are `250ms`, `30s`, `5m`, `24h`,
`7d` or a number of seconds. A secret is a reference to where it is. "–" is a key without a default; its example follows.
"""
_NAMES: Final[dict[object, str]] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    Decimal: "amount",
    str: "text",
    Path: "path",
    timedelta: "duration",
    SecretReference: "secret",
}


@dataclass
class Entry:
    """Keys that one comment explains, each with its place and its value in the example."""

    comment: str
    keys: list[tuple[str, str]] = field(default_factory=list)


def write_reference(example: str) -> str:
    """Returns the page."""
    parts = [_HEAD]
    for section, introduction, entries in _sections(example):
        is_list = get_origin(bare_type(_field(section).annotation)) is tuple
        title = f"[[{section}]]" if is_list else f"[{section}]"
        rows = [_row(section, entry) for entry in entries]
        table = ["| key | type | default | |", "|---|---|---|---|", *rows]
        parts.append("\n".join([f"## `{title}`", "", *([introduction, ""] if introduction else []), *table]) + "\n")
    return "\n".join(parts)


def _sections(example: str) -> Iterator[tuple[str, str, list[Entry]]]:
    """Yields each section with the comment before it and its entries. A key that was there before is left out."""
    found: dict[str, tuple[str, list[Entry]]] = {}
    seen: set[str] = set()
    section, comment = "", ""
    for line in example.splitlines():
        if (header := _SECTION.fullmatch(line)) is not None:
            section = header[1]
            found.setdefault(section, (comment, []))
            comment = ""
        elif line.startswith("# "):
            comment = f"{comment} {line[2:]}".strip()
        elif (key := _KEY.fullmatch(line)) is not None:
            place = f"{section}.{key[1]}"
            entries = found[section][1]
            if place not in seen:
                seen.add(place)
                if comment or not entries:
                    entries.append(Entry(comment))
                entries[-1].keys.append((key[1], key[2]))
            comment = ""
        else:
            comment = ""
    yield from ((name, introduction, entries) for name, (introduction, entries) in found.items() if entries)


def _row(section: str, entry: Entry) -> str:
    keys, kinds, defaults = [], [], []
    for key, example in entry.keys:
        declared = _field(f"{section}.{key}")
        keys.append(f"`{key}`")
        kinds.append(_kind(bare_type(declared.annotation)))
        default = declared.get_default(call_default_factory=True)
        is_without = default in (None, PydanticUndefined) or isinstance(default, BaseModel) or (default == () and example != "[]")
        defaults.append(f"–, `{example}`" if is_without else f"`{_shown(default)}`")
    return f"| {'<br>'.join(keys)} | {'<br>'.join(kinds)} | {'<br>'.join(defaults)} | {_escape(entry.comment)} |"


def _field(place: str) -> Any:
    """The field of a place such as `providers.limits.max_waiting`; the items of a list have the place of the list."""
    group: Any = Settings
    found: Any = None
    for step in place.split("."):
        found = group.model_fields[step]
        kind = bare_type(found.annotation)
        group = bare_type(get_args(kind)[0]) if get_origin(kind) is tuple else kind
    return found


def _kind(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return f"list: {_kind(bare_type(get_args(kind)[0]))}"
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "one of " + ", ".join(f"`{member.value}`" for member in kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not SecretReference:
        return "table"
    return _NAMES.get(kind, "text")


def _shown(default: object) -> str:
    if isinstance(default, timedelta):
        return format_duration(default) if default else "0s"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, Enum):
        return str(default.value)
    if isinstance(default, tuple):
        return ", ".join(_shown(each) for each in default) or "[]"
    return str(default)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "\\<")


if __name__ == "__main__":
    PAGE.write_text(write_reference(EXAMPLE.read_text(encoding="utf-8")), encoding="utf-8")
