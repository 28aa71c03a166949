"""What a PostgreSQL server says of itself when it is asked for its role."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

QUESTION: Final = """
with asked as materialized (select clock_timestamp() as at)
select
    asked.at,
    pg_is_in_recovery() as is_standby,
    case when pg_is_in_recovery() then null else pg_walfile_name(pg_current_wal_lsn()) end as wal_file,
    greatest(checkpoint.timeline_id, recovery.min_recovery_end_timeline, (select received_tli from pg_stat_wal_receiver))
        as seen_timeline,
    (case
        when pg_is_in_recovery() then pg_last_wal_replay_lsn()
        when current_setting('synchronous_commit') = 'off' then pg_current_wal_insert_lsn()
        else pg_current_wal_flush_lsn()
    end - '0/0'::pg_lsn)::bigint as position,
    (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint as replayed,
    exists (select from pg_stat_wal_receiver) as receives,
    system.system_identifier,
    (select oid::bigint from pg_database where datname = current_database()) as database,
    pg_postmaster_start_time() as started_at
from asked, pg_control_checkpoint() checkpoint, pg_control_recovery() recovery, pg_control_system() system
"""
"""The time is taken before the position, so every commit that was acknowledged before that time is at or before the position.
The name of the WAL file has the timeline of a primary at once; the control file has it only after a checkpoint."""

_TIMELINE_DIGITS = 8


@dataclass(frozen=True, slots=True)
class ServerState:
    """`position` is in bytes of WAL: what a primary has written, or what a standby has replayed. `timeline` is that of a primary;
    a standby is at least on it. `receives`: it is connected to the server that it follows. `forked_at` is where a promoted
    server left the timeline before; None if it does not know. `cluster` and `database` are the same for all servers that
    replicate one database."""

    at: datetime
    is_standby: bool
    timeline: int
    position: int
    forked_at: int | None
    receives: bool
    cluster: int
    database: int
    started_at: datetime


async def ask_state(connection: asyncpg.Connection[asyncpg.Record]) -> ServerState:
    """Raises what asyncpg raises."""
    row = await connection.fetchrow(QUESTION)
    assert row is not None
    is_standby: bool = row["is_standby"]
    return ServerState(
        row["at"],
        is_standby,
        row["seen_timeline"] if is_standby else int(row["wal_file"][:_TIMELINE_DIGITS], 16),
        row["position"] or 0,
        None if is_standby else row["replayed"],
        row["receives"],
        row["system_identifier"],
        row["database"],
        row["started_at"],
    )
