"""SQL functions and views. The current source of each is `migrations/functions/NAME.sql`, and there is no other.

A migration names in its `REPLACES` the functions that it adds or changes, each with a digest of its source. A test compares the
digest with the file, because a function that changes without a migration stays the same in every existing database. If
arguments or columns change, the migration also drops the old form. After the last migration of an upgrade, each named function
is made from its file, once, so an upgrade over many versions needs no older source. Therefore a migration must not call one.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection

from app.db.sql_files import MIGRATIONS, run_statements

FUNCTIONS = MIGRATIONS / "functions"
IN_ORDER = (
    "ledger_lock",
    "outbox_lock",
    "local_instant",
    "budget_period",
    "budgets_for",
    "budget_spend",
    "raise_alerts",
    "budget_open",
    "lock_periods",
    "periods_of",
    "materialise_defaults",
    "budget_now",
    "budget_discrepancies",
    "usage_buckets",
    "write_admissions",
    "ledger_admit",
    "write_usage",
    "remove_estimates",
    "charge_budgets",
    "write_rollups",
    "mark_stale_labels",
    "close_calls",
    "ledger_settle",
    "ledger_sweep",
    "repair_sums",
    "make_usage_partition",
    "spending_by_day",
    "outbox_sequence",
    "outbox_forget",
    "webhook_take",
    "provider_changed",
    "share_stream_keys",
    "cache_invalidate",
    "fill_label_rollups",
    "extend_label_rollups",
    "refresh_label_rollups",
    "make_vector_table",
    "drop_vector_table",
    "index_vector_table",
)
"""Each function comes after those that its definition needs."""

_FIX_DEFINERS = """
do $$
declare
    definer regprocedure;
begin
    for definer in
        select oid from pg_proc
        where pronamespace = current_schema()::regnamespace and prosecdef and pg_has_role(proowner, 'usage')
    loop
        execute format('alter function %s set search_path = %I, pg_temp', definer, current_schema());
        execute format('revoke execute on function %s from public', definer);
    end loop;
end
$$
"""
"""A function that runs with the owner's rights finds its tables in their schema. Temporary tables come last; otherwise a
caller's temporary table could replace a table. Only roles with a grant may run it."""


def replace_functions(connection: Connection, names: Collection[str]) -> None:
    """Makes these functions from their files. Raises ValueError if one has no file."""
    for name in sorted(names, key=IN_ORDER.index):
        run_statements(connection, FUNCTIONS / f"{name}.sql")
    if names:
        connection.exec_driver_sql(_FIX_DEFINERS)
