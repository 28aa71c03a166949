"""The field's words in stored names; functions and views in their current form, on a database of any revision before."""

from __future__ import annotations

from app.db.functions import IN_ORDER
from app.db.sql_files import execute_file

revision = "0013"
down_revision = "0012"
REPLACES = IN_ORDER


def upgrade() -> None:
    execute_file("0013_stored_names.sql")
