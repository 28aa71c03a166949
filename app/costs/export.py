"""Costs as a file of any size, by a link that expires.

The link says what is in the file and is signed; whoever has it needs no key. Rows come from a cursor of the database, a batch at
a time, and rows and total are of one snapshot.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import zlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

import msgspec
from sqlalchemy import select, text

from app.clock import Clock
from app.costs.export_rows import (
    RECORD_COLUMNS,
    CsvWriter,
    JsonLinesWriter,
    RowWriter,
    camel,
    group_row,
    measure_columns,
    record_row,
    total_row,
)
from app.costs.queries import CostDimension, CostFilter, CostQuery
from app.costs.report_statements import (
    costs_statement,
    dimension_names,
    groups_statement,
    record_conditions,
    segments_of,
)
from app.db.sessions import ReadSession, Sessions
from app.db.tables.usage import usage_records
from app.errors import Refused
from app.problems import InvalidInput, NotFound

PATH = "/exports"
LIFETIME = timedelta(hours=1)
LONGEST_TOKEN = 6000
BATCH = 500
_LONGEST_TICKET = 1024 * 1024
_GONE = NotFound("The link is not one of ours, or it has expired.")


class ExportFormat(Enum):
    CSV = "CSV"
    JSON_LINES = "JSON_LINES"


@dataclass(frozen=True, slots=True)
class CostExport:
    url: str
    expires_at: datetime


class Ticket(msgspec.Struct, frozen=True):
    """What a link stands for."""

    filter: CostFilter
    format: ExportFormat
    group_by: tuple[CostDimension, ...]
    expires_at: datetime

    @property
    def media_type(self) -> str:
        return "text/csv; charset=utf-8" if self.format is ExportFormat.CSV else "application/jsonl"

    @property
    def file_name(self) -> str:
        ending = "csv" if self.format is ExportFormat.CSV else "jsonl"
        return f"costs-{self.filter.start:%Y-%m-%d}-{self.filter.end:%Y-%m-%d}.{ending}"


class CostExports:
    def __init__(self, sessions: Sessions, clock: Clock, address: str) -> None:
        """`address` is put in front of a link's path."""
        self._sessions = sessions
        self._clock = clock
        self._address = address
        self._secret: bytes | None = None

    async def create(self, where: CostFilter, format_: ExportFormat, group_by: tuple[CostDimension, ...]) -> CostExport:
        """Without dimensions one row a usage record. Raises Refused(InvalidInput) and StoreUnavailable."""
        if CostDimension.LABEL in group_by:
            raise Refused(InvalidInput("An export cannot be grouped by a label; leave groupBy out to get labels.", ("groupBy",)))
        CostQuery(where, group_by)
        expires_at = (self._clock.now() + LIFETIME).replace(microsecond=0)
        packed = zlib.compress(msgspec.json.encode(Ticket(where, format_, group_by, expires_at)))
        token = _text(packed + await self._signature(packed))
        if len(token) > LONGEST_TOKEN:
            raise Refused(InvalidInput("The filter is too long for a link; name fewer.", ("filter",)))
        return CostExport(f"{self._address}{PATH}/{token}", expires_at)

    async def ticket(self, token: str) -> Ticket:
        """Raises Refused(NotFound) for a link that is not ours or has expired, and StoreUnavailable."""
        try:
            data = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (binascii.Error, ValueError):
            raise Refused(_GONE) from None
        packed, signature = data[:-_SIGNATURE_BYTES], data[-_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, await self._signature(packed)):
            raise Refused(_GONE)
        ticket = msgspec.json.decode(zlib.decompressobj().decompress(packed, _LONGEST_TICKET), type=Ticket)
        if ticket.expires_at <= self._clock.now():
            raise Refused(_GONE)
        return ticket

    async def content(self, ticket: Ticket) -> AsyncGenerator[bytes, None]:
        """The file, piece by piece; what is not asked for is not read. Raises StoreUnavailable."""
        query = CostQuery(ticket.filter, ticket.group_by)
        columns = tuple(map(camel, dimension_names(query))) if ticket.group_by else RECORD_COLUMNS
        writer = _writer(ticket.format, (*columns, *measure_columns()))
        yield writer.head()
        async with self._sessions.read(shared=True) as session:
            await session.execute(text("set transaction isolation level repeatable read, read only"))
            rows = _groups(session, query, writer) if ticket.group_by else _records(session, ticket.filter, writer)
            async for piece in rows:
                yield piece
            totals = CostQuery(ticket.filter)
            found = (await session.execute(costs_statement(totals, segments_of(totals), None))).mappings().one()
        yield writer.rows("total", [total_row(found, len(columns))])

    async def _signature(self, packed: bytes) -> bytes:
        if self._secret is None:
            async with self._sessions.read() as session:
                self._secret = (await session.execute(_SECRET)).scalar_one()
        return hmac.digest(self._secret, b"greenlang cost export" + packed, hashlib.sha256)


_SIGNATURE_BYTES = hashlib.sha256().digest_size
_SECRET = text("select secret from installation_secrets where name = 'cost_exports'")


async def _records(session: ReadSession, where: CostFilter, writer: RowWriter) -> AsyncGenerator[bytes, None]:
    statement = select(usage_records).where(*record_conditions(where)).order_by(usage_records.c.at, usage_records.c.key)
    async with session.stream(statement, execution_options={"yield_per": BATCH}) as result:
        async for batch in result.mappings().partitions():
            yield writer.rows("usage", map(record_row, batch))


async def _groups(session: ReadSession, query: CostQuery, writer: RowWriter) -> AsyncGenerator[bytes, None]:
    names = dimension_names(query)
    statement = groups_statement(query, segments_of(query))
    async with session.stream(statement, execution_options={"yield_per": BATCH}) as result:
        async for batch in result.mappings().partitions():
            yield writer.rows("group", (group_row(row, names) for row in batch))


def _writer(format_: ExportFormat, columns: tuple[str, ...]) -> RowWriter:
    return CsvWriter(columns) if format_ is ExportFormat.CSV else JsonLinesWriter(columns)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
