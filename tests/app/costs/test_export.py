"""Files of costs: every row once, a total that is the report's, links that expire, and nothing a spreadsheet would run."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha512
from typing import TypeAlias
from uuid import UUID

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.pool import AsyncAdaptedQueuePool
from starlette.applications import Starlette
from yarl import URL

from app.costs.export import (
    LIFETIME,
    NEWER_SECRET_SECONDS,
    SECRET_SECONDS,
    CostExport,
    CostExports,
    ExportFormat,
    rotate_export_secret,
)
from app.costs.export_endpoint import build_export_routes
from app.costs.export_rows import CsvWriter
from app.costs.ledger import PostgresLedger
from app.costs.queries import CostDimension, CostFilter, CostQuery
from app.costs.reports import CostReports
from app.db.sessions import ReadSession, Sessions
from app.domain.errors import Refused
from app.domain.problems import InvalidInput, NotFound
from app.settings import LimitSettings, Settings
from tests.app.costs.calls import asked, attempt, payer, settlement
from tests.app.graphql.serving import eventually, serving
from tests.app.web.misuses import new_misuse
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio

EVER = CostFilter(datetime(2026, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC), ("acme",))
JSON_LINES = ExportFormat.JSON_LINES
KEY = UUID(int=7)
Rows: TypeAlias = "list[dict[str, str]]"


async def spend(ledger: PostgresLedger, cost: str | None, agent: str | None = None, tenant: str = "acme", **labels: str) -> None:
    request = asked(payer(tenant, agent, **labels))
    await ledger.admit(request)
    await ledger.settle(settlement(request, attempt(cost)))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def exports(sessions: Sessions, clock: ManualClock) -> CostExports:
    async with sessions.write() as session:
        await session.execute(
            text(
                "insert into api_keys (id, tenant, name, hint, secret_hash, scopes)"
                " values (:key, 'acme', 'finance', 'hint', sha256('x'), array['COSTS'])"
            ),
            {"key": KEY},
        )
    return CostExports(sessions, clock, "https://greenlang.example.com")


async def fetch(exports: CostExports, made: CostExport) -> bytes:
    ticket = await exports.ticket(made.url.rpartition("/")[2])
    return b"".join([piece async for piece in exports.content(ticket)])


async def csv_rows(exports: CostExports, *group_by: CostDimension) -> Rows:
    content = await fetch(exports, await exports.create(EVER, ExportFormat.CSV, group_by, KEY))
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))


class TestRows:
    async def test_of_records_add_up_to_a_total_that_is_the_reports(
        self, ledger: PostgresLedger, exports: CostExports, sessions: Sessions
    ) -> None:
        for cost in ("0.1", "0.000000000001", "12", None):
            await spend(ledger, cost, "a")
        await spend(ledger, "99", tenant="globex")
        *rows, total = await csv_rows(exports)
        report = (await CostReports(sessions).costs(CostQuery(EVER))).totals
        assert [row["kind"] for row in rows] == ["usage"] * 4
        assert total["kind"] == "total"
        assert sum(Decimal(row["costUsd"] or 0) for row in rows) == Decimal(total["costUsd"]) == report.cost_usd
        for column, figure in (
            ("requests", report.requests),
            ("inputTokens", report.input_tokens),
            ("outputTokens", report.output_tokens),
            ("unpricedRequests", report.unpriced_requests),
        ):
            assert sum(int(row[column]) for row in rows) == int(total[column]) == figure
        assert [row["costUsd"] for row in rows] == ["0.1", "0.000000000001", "12", ""]

    async def test_of_groups_are_the_reports(self, ledger: PostgresLedger, exports: CostExports) -> None:
        for number in range(120):
            await spend(ledger, "0.5", f"agent-{number:03}")
        await spend(ledger, "1")
        *rows, total = await csv_rows(exports, CostDimension.AGENT, CostDimension.DAY)
        assert [row["agent"] for row in rows] == ["", *(f"agent-{number:03}" for number in range(120))]
        assert rows[0]["periodStart"].endswith("T00:00:00Z")
        assert (total["costUsd"], total["requests"], total["agent"]) == ("61", "121", "")

    async def test_as_json_lines_keep_their_types(self, ledger: PostgresLedger, exports: CostExports) -> None:
        await spend(ledger, "0.25", "a", team="search")
        await spend(ledger, None)
        content = await fetch(exports, await exports.create(EVER, ExportFormat.JSON_LINES, (), KEY))
        first, second, total = map(json.loads, content.splitlines())
        assert (first["kind"], first["costUsd"], first["labels"]) == ("usage", "0.25", {"team": "search"})
        assert (first["inputTokens"], first["confirmed"]) == (1000, True)
        assert (second["costUsd"], second["agent"]) == (None, None)
        assert (total["kind"], total["costUsd"], total["unpricedRequests"]) == ("total", "0.25", 1)

    async def test_of_nothing_are_a_total_of_zero(self, exports: CostExports) -> None:
        [total] = await csv_rows(exports)
        assert (total["kind"], total["costUsd"], total["requests"]) == ("total", "0", "0")

    async def test_are_as_many_as_there_are(self, ledger: PostgresLedger, exports: CostExports, sessions: Sessions) -> None:
        await spend(ledger, "1")
        async with sessions.write() as session:
            await session.execute(text(_COPIES), {"copies": 2500})
        *rows, _ = await csv_rows(exports)
        assert len({row["id"] for row in rows}) == len(rows) == 2501


class TestSpreadsheets:
    @pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x","y")', "＝1"])
    async def test_find_no_formula_in_a_name(self, ledger: PostgresLedger, exports: CostExports, name: str) -> None:
        await spend(ledger, "1", name)
        row, _ = await csv_rows(exports)
        assert (row["agent"] or "").startswith("'")
        assert (row["agent"] or "").replace("'", "") == name

    @given(st.lists(st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))), min_size=1))
    def test_read_back_every_cell(self, cells: list[str | None]) -> None:
        content = CsvWriter([str(number) for number in range(len(cells))]).rows("usage", [cells]).decode()
        [row] = list(csv.reader(io.StringIO(content, newline="")))
        assert [cell.replace("'", "") for cell in row[1:]] == [(cell or "").replace("'", "") for cell in cells]
        assert not any(part.lstrip().startswith(("=", "+", "-", "@")) for cell in row for part in re.split(r"[;|\t\r\n]", cell))

    @pytest.mark.parametrize(
        ("name", "cell"),
        [("a;=1+1", "a;'=1+1"), ("a\t=1", "a\t'=1"), ("a; -1", "a;' -1"), ("a-b;c=d", "a-b;c=d"), ("a\n+1", "a\n'+1")],
    )
    def test_find_no_formula_behind_another_locales_separator(self, name: str, cell: str) -> None:
        content = CsvWriter(["name"]).rows("usage", [[name]]).decode()
        assert next(csv.reader(io.StringIO(content, newline="")))[1] == cell

    async def test_know_the_encoding(self, exports: CostExports) -> None:
        assert (await fetch(exports, await exports.create(EVER, ExportFormat.CSV, (), KEY))).startswith(b"\xef\xbb\xbfkind,id,")


def token_of(version: int) -> str:
    """As a caller without a key can write it, with any version."""
    return base64.urlsafe_b64encode(version.to_bytes(4) + b"x" * 40).decode()


@dataclass(frozen=True)
class CountedReads(Sessions):
    of_primary: list[bool] = field(default_factory=list)

    @asynccontextmanager
    async def read(
        self, *, primary: bool = False, shared: bool = False, max_staleness: timedelta | None = None
    ) -> AsyncIterator[ReadSession]:
        self.of_primary.append(primary)
        async with super().read(primary=primary, shared=shared, max_staleness=max_staleness) as session:
            yield session


class TestLinks:
    async def test_work_in_every_process_until_they_expire(
        self, sessions: Sessions, exports: CostExports, clock: ManualClock
    ) -> None:
        made = await exports.create(EVER, ExportFormat.CSV, (), KEY)
        assert made.url.startswith("https://greenlang.example.com/exports/")
        assert made.expires_at == clock.now() + LIFETIME
        elsewhere = CostExports(sessions, clock, "")
        assert (await elsewhere.ticket(made.url.rpartition("/")[2])).filter == EVER
        clock.move((LIFETIME + timedelta(seconds=1)).total_seconds())
        with pytest.raises(Refused) as refused:
            await elsewhere.ticket(made.url.rpartition("/")[2])
        assert isinstance(refused.value.reason, NotFound)

    @pytest.mark.parametrize("end", ["revoked_at = now()", "expires_at = '2026-01-01'"])
    async def test_end_with_the_key_that_made_them(self, exports: CostExports, sessions: Sessions, end: str) -> None:
        token = (await exports.create(EVER, ExportFormat.CSV, (), KEY)).url.rpartition("/")[2]
        assert (await exports.ticket(token)).key == KEY
        async with sessions.write() as session:
            await session.execute(text(f"update api_keys set {end} where id = :key"), {"key": KEY})
        with pytest.raises(Refused):
            await exports.ticket(token)

    async def test_end_in_every_process_when_the_secret_is_changed(
        self, exports: CostExports, sessions: Sessions, clock: ManualClock
    ) -> None:
        elsewhere = CostExports(sessions, clock, "")
        before = (await exports.create(EVER, ExportFormat.CSV, (), KEY)).url.rpartition("/")[2]
        assert (await elsewhere.ticket(before)).filter == EVER
        assert await rotate_export_secret(sessions) == 2
        after = (await exports.create(EVER, ExportFormat.CSV, (), KEY)).url.rpartition("/")[2]
        assert (await elsewhere.ticket(after)).filter == EVER
        for process in (exports, elsewhere):
            with pytest.raises(Refused):
                await process.ticket(before)

    async def test_of_an_old_secret_end_within_seconds_where_no_new_link_was_seen(
        self, exports: CostExports, sessions: Sessions, clock: ManualClock
    ) -> None:
        token = (await exports.create(EVER, ExportFormat.CSV, (), KEY)).url.rpartition("/")[2]
        await rotate_export_secret(sessions)
        clock.move(SECRET_SECONDS)
        with pytest.raises(Refused):
            await exports.ticket(token)

    async def test_that_name_newer_secrets_cause_one_read_at_a_time_and_few(self, sessions: Sessions, clock: ManualClock) -> None:
        counted = CountedReads(sessions.engines)
        exports = CostExports(counted, clock, "")
        for version in (1, 9, 1):
            with pytest.raises(Refused):
                await exports.ticket(token_of(version))
        assert len(counted.of_primary) == 2
        waiting = [asyncio.create_task(exports.ticket(token_of(version))) for version in range(10, 60)]
        await clock.advance(NEWER_SECRET_SECONDS / 2)
        assert len(counted.of_primary) == 2
        await clock.advance(NEWER_SECRET_SECONDS)
        assert all(isinstance(end, Refused) for end in await asyncio.gather(*waiting, return_exceptions=True))
        assert len(counted.of_primary) == 3

    async def test_of_a_new_secret_work_while_others_name_newer_ones(
        self, exports: CostExports, sessions: Sessions, clock: ManualClock
    ) -> None:
        elsewhere = CostExports(sessions, clock, "")
        for _ in range(2):
            with pytest.raises(Refused):
                await elsewhere.ticket(token_of(0))
            with pytest.raises(Refused):
                await elsewhere.ticket(token_of(2**32 - 1))
            clock.move(NEWER_SECRET_SECONDS)
        await rotate_export_secret(sessions)
        made = (await exports.create(EVER, ExportFormat.CSV, (), KEY)).url.rpartition("/")[2]
        assert (await elsewhere.ticket(made)).filter == EVER

    async def test_that_were_changed_are_not_ours(self, exports: CostExports) -> None:
        token = (await exports.create(EVER, ExportFormat.CSV, (), KEY)).url.rpartition("/")[2]
        for place in range(0, len(token), 7):
            other = "A" if token[place] != "A" else "B"
            with pytest.raises(Refused):
                await exports.ticket(token[:place] + other + token[place + 1 :])

    @pytest.mark.parametrize("token", ["", "x", "é", "A" * 5000, "%00"])
    async def test_that_never_were_are_not_ours(self, exports: CostExports, token: str) -> None:
        with pytest.raises(Refused):
            await exports.ticket(token)

    async def test_are_refused_for_what_cannot_be_written(self, exports: CostExports) -> None:
        for where, group_by, path in (
            (EVER, (CostDimension.LABEL,), ("groupBy",)),
            (EVER, (CostDimension.HOUR, CostDimension.DAY), ("groupBy",)),
            (
                CostFilter(EVER.start, EVER.end, None, models=tuple(sha512(str(n).encode()).hexdigest() for n in range(100))),
                (),
                ("filter",),
            ),
        ):
            with pytest.raises(Refused) as refused:
                await exports.create(where, ExportFormat.CSV, group_by, KEY)
            assert isinstance(refused.value.reason, InvalidInput)
            assert refused.value.reason.path == path


class TestDownload:
    async def test_is_a_file_that_needs_no_key(self, ledger: PostgresLedger, exports: CostExports) -> None:
        await spend(ledger, "1")
        url = URL((await exports.create(EVER, ExportFormat.CSV, (), KEY)).url)
        app = Starlette(routes=build_export_routes(exports, new_misuse(), Settings()))
        async with serving(app) as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            async with session.get(url.path) as answer:
                body = await answer.read()
                assert answer.status == 200
            async with session.get("/exports/nothing") as refused:
                assert refused.status == 404
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert answer.headers["content-disposition"] == 'attachment; filename="costs-2026-01-01-2100-01-01.csv"'
        assert body.count(b"\r\n") == 3

    async def test_ends_when_its_reader_has_gone(self, ledger: PostgresLedger, exports: CostExports, sessions: Sessions) -> None:
        await spend(ledger, "1")
        async with sessions.write() as session:
            await session.execute(text(_COPIES), {"copies": 60_000})
        url = URL((await exports.create(EVER, ExportFormat.JSON_LINES, (), KEY)).url)
        pool = sessions.engines.primary.sync_engine.pool
        assert isinstance(pool, AsyncAdaptedQueuePool)
        before = pool.checkedout()
        async with serving(Starlette(routes=build_export_routes(exports, new_misuse(), Settings()))) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {url.path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            await eventually(lambda: pool.checkedout() == before + 1)
            writer.close()
            await writer.wait_closed()
            await eventually(lambda: pool.checkedout() == before)


class TestSlowReaders:
    """Of files that are larger than what the system keeps for a reader."""

    @pytest.fixture
    async def urls(self, ledger: PostgresLedger, exports: CostExports, sessions: Sessions) -> dict[str, str]:
        await spend(ledger, "1")
        async with sessions.write() as session:
            await session.execute(text(_COPIES), {"copies": 60_000})
        made = {
            tenant: await exports.create(replace(EVER, tenants=(tenant,)), JSON_LINES, (), KEY) for tenant in ("acme", "globex")
        }
        everybody = await exports.create(replace(EVER, tenants=None), JSON_LINES, (), KEY)
        return {name: URL(each.url).path for name, each in {**made, "everybody": everybody}.items()}

    async def test_leave_places_to_other_tenants_and_administrators(self, exports: CostExports, urls: dict[str, str]) -> None:
        async with (
            serving(Starlette(routes=build_export_routes(exports, new_misuse(), Settings()))) as port,
            AsyncExitStack() as slow,
        ):
            statuses = [await slow.enter_async_context(unread(port, urls["acme"])) for _ in range(7)]
            assert [status for status, _ in statuses] == [200] * 5 + [503] * 2
            refusal = json.loads(statuses[-1][1].partition(b"\r\n\r\n")[2])
            assert refusal["errors"][0]["extensions"] == {"code": "OVERLOADED", "retryAfterMs": 5000}
            for name in ("globex", "everybody"):
                assert (await slow.enter_async_context(unread(port, urls[name])))[0] == 200

    async def test_are_cut_off_when_their_time_is_up(
        self, exports: CostExports, urls: dict[str, str], sessions: Sessions, caplog: pytest.LogCaptureFixture
    ) -> None:
        pool = sessions.engines.primary.sync_engine.pool
        assert isinstance(pool, AsyncAdaptedQueuePool)
        before, limits = pool.checkedout(), LimitSettings(export_timeout=timedelta(seconds=1))
        app = Starlette(routes=build_export_routes(exports, new_misuse(), Settings(limits=limits)))
        async with serving(app) as port, unread(port, urls["acme"]) as (status, _):
            assert status == 200
            assert pool.checkedout() == before + 1
            await eventually(lambda: pool.checkedout() == before)
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@asynccontextmanager
async def unread(port: int, path: str) -> AsyncIterator[tuple[int, bytes]]:
    """Status and first bytes of an answer of which no more is read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    try:
        first = await reader.read(1024)
        yield int(first.split(b" ")[1]), first
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


_COLUMNS = """
    at, operation, tenant, labels, provider, model, outcome, uncached_input_tokens, cached_input_tokens, cache_write_5m_tokens,
    cache_write_1h_tokens, visible_output_tokens, reasoning_tokens, cost_usd, latency_ms, confirmed
"""
_COPIES = (
    f"insert into usage_records (key, {_COLUMNS}) select gen_random_uuid(), {_COLUMNS}"
    " from usage_records, generate_series(1, :copies)"
)
