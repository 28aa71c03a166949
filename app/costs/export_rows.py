"""Rows of an export, as CSV that spreadsheets open correctly or as JSON Lines. The last row is the total of the others.

If a spreadsheet would read a text as a formula, the text gets an apostrophe in front, because names come from callers.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Protocol, TypeAlias

import msgspec
from sqlalchemy import RowMapping

from app.costs.report_statements import MEASURES
from app.domain.ids import format_id
from app.domain.money import ZERO, format_decimal

Value: TypeAlias = "str | int | float | bool | Mapping[str, str] | None"
Row: TypeAlias = Sequence[Value]

RECORD_COLUMNS = (
    "id",
    "completionId",
    "at",
    "operation",
    "tenant",
    "agent",
    "labels",
    "keyName",
    "provider",
    "model",
    "outcome",
    "providerRequestId",
    "cacheTier",
    "latencyMs",
    "confirmed",
    "priceInputUsd",
    "priceOutputUsd",
    "priceCacheReadUsd",
    "priceCacheWriteUsd",
    "priceSource",
)
_FORMULA = re.compile(r"(^|[;|\t\r\n])(?=\s*[=+\-@\t\r\n＝＋－＠])")
"""Also matches after a character that ends a cell in a spreadsheet of another locale."""
_BYTE_ORDER_MARK = "\ufeff"


class RowWriter(Protocol):
    def head(self) -> bytes: ...

    def rows(self, kind: str, rows: Iterable[Row]) -> bytes: ...


class CsvWriter:
    """RFC 4180, in UTF-8 with a byte order mark, by which spreadsheets recognise it."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns

    def head(self) -> bytes:
        return _BYTE_ORDER_MARK.encode() + _csv([("kind", *self._columns)])

    def rows(self, kind: str, rows: Iterable[Row]) -> bytes:
        return _csv((kind, *map(_cell, row)) for row in rows)


class JsonLinesWriter:
    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns

    def head(self) -> bytes:
        return b""

    def rows(self, kind: str, rows: Iterable[Row]) -> bytes:
        encode = msgspec.json.encode
        return b"".join(encode({"kind": kind, **dict(zip(self._columns, row, strict=True))}) + b"\n" for row in rows)


def _csv(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _cell(value: Value) -> object:
    if isinstance(value, str):
        return _FORMULA.sub(r"\1'", value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return _cell(json.dumps(value, ensure_ascii=False)) if value else None
    return value


def measure_columns() -> tuple[str, ...]:
    return tuple(camel(name) for name in MEASURES)


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)


def record_row(row: RowMapping) -> Row:
    """The record's own columns, then its share of every measure. Unknown costs are null."""
    inputs: int = (
        row["uncached_input_tokens"] + row["cached_input_tokens"] + row["cache_write_5m_tokens"] + row["cache_write_1h_tokens"]
    )
    outputs: int = row["visible_output_tokens"] + row["reasoning_tokens"]
    cost: Decimal | None = row["cost_usd"]
    return (
        format_id("use", row["key"]),
        None if row["completion"] is None else format_id("cmp", row["completion"]),
        _instant(row["at"]),
        row["operation"],
        row["tenant"],
        row["agent"],
        row["labels"],
        row["key_name"],
        row["provider"],
        row["model"],
        row["outcome"],
        row["provider_request_id"],
        row["cache_tier"],
        row["latency_ms"],
        row["confirmed"],
        _money(row["price_input_usd"]),
        _money(row["price_output_usd"]),
        _money(row["price_cache_read_usd"]),
        _money(row["price_cache_write_usd"]),
        row["price_source"],
        _money(cost),
        _money(row["saved_usd"] or ZERO),
        1,
        int(row["outcome"] != "SUCCEEDED"),
        int(row["cache_tier"] is not None),
        inputs,
        outputs,
        row["cached_input_tokens"],
        row["reasoning_tokens"],
        int(cost is None and inputs + outputs > 0),
        _money(ZERO if row["confirmed"] or cost is None else cost),
    )


def group_row(row: RowMapping, names: Sequence[str]) -> Row:
    return (*(_dimension(row[name]) for name in names), *(_measure(name, row[name]) for name in MEASURES))


def total_row(row: Mapping[str, Decimal | int] | RowMapping, blank: int) -> Row:
    """`blank` is the number of columns before the measures."""
    return (*(None for _ in range(blank)), *(_measure(name, row[f"total_{name}"]) for name in MEASURES))


def _dimension(value: str | datetime | None) -> Value:
    return _instant(value) if isinstance(value, datetime) else value


def _measure(name: str, value: Decimal | int) -> Value:
    return _money(Decimal(value)) if name.endswith("_usd") else int(value)


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _money(amount: Decimal | None) -> str | None:
    return None if amount is None else format_decimal(amount)
