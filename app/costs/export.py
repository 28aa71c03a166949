"""Costs as a file of any size, through a link that expires.

The link says what is in the file and is signed. A caller that has it needs no key. It works until it expires, until the API key
that made it is revoked or expires, or until the secret that signs links is changed. Rows are read with a database cursor, one
batch at a time. Rows and total come from one snapshot, unless a server fails in between.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from uuid import UUID

import msgspec
from sqlalchemy import or_, select, text, tuple_

from app.costs.export_rows import (
    RECORD_COLUMNS,
    CsvWriter,
    JsonLinesWriter,
    Row,
    RowWriter,
    camel,
    group_row,
    measure_columns,
    record_row,
    total_row,
)
from app.costs.label_rollups import read_segments
from app.costs.queries import CostDimension, CostFilter, CostQuery
from app.costs.report_statements import (
    MEASURES,
    costs_statement,
    dimension_names,
    groups_statement,
    record_conditions,
)
from app.db.own_writes import CALLER, Caller
from app.db.read_sessions import was_cancelled_by_recovery
from app.db.sessions import ReadSession, Sessions
from app.db.statement_times import named
from app.db.tables.access import api_keys
from app.db.tables.usage import usage_records
from app.domain.errors import Refused, StoreUnavailable
from app.domain.money import ZERO
from app.domain.problems import InvalidInput, NotFound
from app.runtime.batcher import Batcher
from app.runtime.clock import Clock

PATH = "/exports"
LIFETIME = timedelta(hours=1)
SECRET_SECONDS = 5.0
NEWER_SECRET_SECONDS = 0.25
MAX_TOKEN_LENGTH = 6000
BATCH = 500
_MAX_TICKET_BYTES = 1024 * 1024
_GONE = NotFound("The link is not valid, or it has expired.")


class ExportFormat(Enum):
    CSV = "CSV"
    JSON_LINES = "JSON_LINES"


@dataclass(frozen=True, slots=True)
class CostExport:
    url: str
    expires_at: datetime


class Ticket(msgspec.Struct, frozen=True):
    """What a link contains."""

    filter: CostFilter
    format: ExportFormat
    group_by: tuple[CostDimension, ...]
    expires_at: datetime
    key: UUID
    """The API key that made the link."""

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
        self._signer: _Signer | None = None
        self._newer_read_at = -math.inf
        self._signers = Batcher(self._read_for)

    async def create(
        self, where: CostFilter, format_: ExportFormat, group_by: tuple[CostDimension, ...], key: UUID
    ) -> CostExport:
        """Makes a link. Without dimensions the file has one row per usage record. The link stops working when `key` does.
        Raises Refused(InvalidInput), StoreUnavailable."""
        if CostDimension.LABEL in group_by:
            raise Refused(
                InvalidInput(
                    "An export cannot be grouped by a label. Omit groupBy to get the labels of each record.", ("groupBy",)
                )
            )
        CostQuery(where, group_by)
        expires_at = (self._clock.now() + LIFETIME).replace(microsecond=0)
        packed = zlib.compress(msgspec.json.encode(Ticket(where, format_, group_by, expires_at, key)))
        token = _text((await self._read_signer()).sign(packed))
        if len(token) > MAX_TOKEN_LENGTH:
            raise Refused(InvalidInput("The filter is too long for a link. Give fewer values.", ("filter",)))
        return CostExport(f"{self._address}{PATH}/{token}", expires_at)

    async def ticket(self, token: str) -> Ticket:
        """Raises Refused(NotFound) if the link is not ours or does not work any more, and StoreUnavailable."""
        try:
            data = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (binascii.Error, ValueError):
            raise Refused(_GONE) from None
        packed = (await self._signer_of(int.from_bytes(data[:_VERSION_BYTES]))).open(data)
        if packed is None:
            raise Refused(_GONE)
        ticket = msgspec.json.decode(zlib.decompressobj().decompress(packed, _MAX_TICKET_BYTES), type=Ticket)
        if ticket.expires_at <= self._clock.now() or not await self._is_good(ticket.key):
            raise Refused(_GONE)
        return ticket

    async def content(self, ticket: Ticket) -> AsyncGenerator[bytes, None]:
        """Yields the file in pieces. Rows are read only as pieces are requested. Raises StoreUnavailable."""
        CALLER.set(Caller(str(ticket.key), may_write=True))
        query = CostQuery(ticket.filter, ticket.group_by)
        columns = tuple(map(camel, dimension_names(query))) if ticket.group_by else RECORD_COLUMNS
        writer = _writer(ticket.format, (*columns, *measure_columns()))
        yield writer.head()
        if ticket.group_by:
            async with self._snapshot() as session:
                async for piece in _groups(session, query, writer):
                    yield piece
                total = await _total(session, ticket.filter, len(columns))
        else:
            given = _Given()
            async for piece in self._records(ticket.filter, writer, given):
                yield piece
            total = given.total(len(columns))
        yield writer.rows("total", [total])

    async def _records(self, where: CostFilter, writer: RowWriter, given: _Given) -> AsyncGenerator[bytes, None]:
        """If a server fails after it has given rows, another goes on after the last row, and then the total is the sum of the
        rows. Each failure must have given something new."""
        on_primary, watched = False, self._sessions.engines.watch is not None
        while True:
            begun = given.last
            try:
                async with self._snapshot(primary=on_primary) as session:
                    async for piece in _records(session, where, writer, given, summing=watched):
                        yield piece
                    if begun is None:
                        given.known_total = await _total(session, where, len(RECORD_COLUMNS))
                return
            except StoreUnavailable as error:
                if not watched or given.last is begun:
                    raise
                on_primary = was_cancelled_by_recovery(error)

    @asynccontextmanager
    async def _snapshot(self, *, primary: bool = False) -> AsyncIterator[ReadSession]:
        async with self._sessions.read(shared=True, primary=primary) as session:
            await session.execute(text("set transaction isolation level repeatable read, read only"))
            yield session

    async def _signer_of(self, version: int) -> _Signer:
        """The current secret, read at most SECRET_SECONDS ago. If a link names a newer version, the secret is read again. That
        happens at most once in NEWER_SECRET_SECONDS for all such links, because anyone can write a link that names a version."""
        return self._known(version) or await self._signers.submit(version)

    def _known(self, version: int) -> _Signer | None:
        """None if the secret must be read: the known one is too old, or older than the version in the link."""
        known = self._signer
        if known is None or known.version < version or known.read_at + SECRET_SECONDS <= self._clock.monotonic():
            return None
        return known

    async def _read_for(self, versions: Sequence[int]) -> list[_Signer]:
        signer = self._known(max(versions))
        if signer is None:
            if self._signer is not None and self._signer.version < max(versions):
                await self._clock.sleep(self._newer_read_at + NEWER_SECRET_SECONDS - self._clock.monotonic())
                self._newer_read_at = self._clock.monotonic()
            signer = await self._read_signer()
        return [signer] * len(versions)

    async def _read_signer(self) -> _Signer:
        async with self._sessions.read(primary=True) as session:
            version, secret = (await session.execute(_SECRET)).one()
        self._signer = _Signer(version, secret, self._clock.monotonic())
        return self._signer

    async def _is_good(self, key: UUID) -> bool:
        good = select(api_keys.c.id).where(
            api_keys.c.id == key,
            api_keys.c.revoked_at.is_(None),
            or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > self._clock.now()),
        )
        async with self._sessions.read(primary=True) as session:
            return (await session.execute(named("export.key", good))).first() is not None


@dataclass(frozen=True, slots=True)
class _Signer:
    """Signs the version of the secret together with the content."""

    version: int
    secret: bytes = field(repr=False)
    read_at: float

    def sign(self, packed: bytes) -> bytes:
        signed = self.version.to_bytes(_VERSION_BYTES) + packed
        return signed + self._signature(signed)

    def open(self, data: bytes) -> bytes | None:
        """Returns the content; None if it was not signed with this version of the secret."""
        signed, signature = data[:-_SIGNATURE_BYTES], data[-_SIGNATURE_BYTES:]
        if int.from_bytes(signed[:_VERSION_BYTES]) != self.version or not hmac.compare_digest(signature, self._signature(signed)):
            return None
        return signed[_VERSION_BYTES:]

    def _signature(self, signed: bytes) -> bytes:
        return hmac.digest(self.secret, b"greenlang cost export" + signed, hashlib.sha256)


async def rotate_export_secret(sessions: Sessions) -> int:
    """Ends every link that was made before, in every process within SECRET_SECONDS. Returns the version of the new secret."""
    async with sessions.write() as session:
        version: int = (await session.execute(_ROTATE)).scalar_one()
        return version


_SIGNATURE_BYTES = hashlib.sha256().digest_size
_VERSION_BYTES = 4
_SECRET = text("select /* export.secret */ version, secret from installation_secrets where name = 'cost_exports'")
_ROTATE = text(
    "update /* export.rotate */"
    " installation_secrets set version = version + 1, secret = uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())"
    " where name = 'cost_exports' returning version"
)


@dataclass
class _Given:
    """What a file has already. `last` is the place of its last record. `known_total` is that of the one snapshot from which all
    records came; None if they came from several."""

    last: tuple[datetime, UUID] | None = None
    known_total: Row | None = None
    sums: list[Decimal] = field(default_factory=lambda: [ZERO] * len(MEASURES))

    def add(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self.sums = [
                before + Decimal(str(value or 0)) for before, value in zip(self.sums, row[-len(MEASURES) :], strict=True)
            ]

    def total(self, blank: int) -> Row:
        sums = {f"total_{name}": total for name, total in zip(MEASURES, self.sums, strict=True)}
        return self.known_total or total_row(sums, blank)


async def _total(session: ReadSession, where: CostFilter, blank: int) -> Row:
    totals = CostQuery(where)
    found = await session.execute(costs_statement(totals, await read_segments(session, totals), None))
    return total_row(found.mappings().one(), blank)


async def _records(
    session: ReadSession, where: CostFilter, writer: RowWriter, given: _Given, *, summing: bool
) -> AsyncGenerator[bytes, None]:
    columns = usage_records.c
    statement = select(usage_records).where(*record_conditions(where)).order_by(columns.at, columns.key)
    if given.last is not None:
        statement = statement.where(tuple_(columns.at, columns.key) > tuple_(*given.last))
    async with session.stream(named("export.records", statement), execution_options={"yield_per": BATCH}) as result:
        async for batch in result.mappings().partitions():
            rows = [record_row(row) for row in batch]
            if summing:
                given.add(rows)
            given.last = batch[-1]["at"], batch[-1]["key"]
            yield writer.rows("usage", rows)


async def _groups(session: ReadSession, query: CostQuery, writer: RowWriter) -> AsyncGenerator[bytes, None]:
    names = dimension_names(query)
    statement = groups_statement(query, await read_segments(session, query))
    async with session.stream(named("export.groups", statement), execution_options={"yield_per": BATCH}) as result:
        async for batch in result.mappings().partitions():
            yield writer.rows("group", (group_row(row, names) for row in batch))


def _writer(format_: ExportFormat, columns: tuple[str, ...]) -> RowWriter:
    return CsvWriter(columns) if format_ is ExportFormat.CSV else JsonLinesWriter(columns)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
