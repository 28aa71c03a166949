"""The field's words in stored names; functions and views in their current form, on a database of any revision before."""

from __future__ import annotations

from app.db.sql_files import execute_file

revision = "0013"
down_revision = "0012"
REPLACES = {
    "ledger_lock": "530a965e759890a8",
    "outbox_lock": "39b6841e614324b0",
    "local_instant": "63de7437e67a179b",
    "budget_period": "a91b8b6eee3e3806",
    "budgets_for": "0736e6a50062eee3",
    "budget_spend": "6a5589e782cc416c",
    "raise_alerts": "76b22378206d226f",
    "budget_open": "af9f7dc48a04184c",
    "lock_periods": "a2583594d425f06d",
    "periods_of": "0559ea61fb31e8c8",
    "materialise_defaults": "6035769f81cbb20a",
    "budget_now": "cd664b8caba34c1f",
    "budget_discrepancies": "c6247ba768fc687c",
    "usage_buckets": "06a65337c65afa2b",
    "write_admissions": "caa935fca0e5f291",
    "ledger_admit": "acc328c1a7c22b33",
    "write_usage": "de4ae8be45f2d038",
    "remove_estimates": "23e108002b2c2dbd",
    "charge_budgets": "abb84da11dba773c",
    "write_rollups": "67a5816f12865416",
    "close_calls": "cb712578729b938d",
    "ledger_settle": "f5b4e7fbe6e5bacc",
    "ledger_sweep": "056aef6af030d10a",
    "repair_sums": "94cc787e94a9153c",
    "make_usage_partition": "255c866d2aa7cf5c",
    "spending_by_day": "210e766abbaa1523",
    "outbox_sequence": "39943d1f0eed0e6d",
    "outbox_forget": "4ae2fd905a8d3c22",
    "webhook_take": "8bc3f017a60979e8",
    "provider_changed": "f0b0d800cd589347",
    "share_stream_keys": "2cb50fa476e315b3",
}


def upgrade() -> None:
    execute_file("0013_stored_names.sql")
