"""The tables that the code reads or writes through SQLAlchemy Core. The other tables are used by SQL functions and fixed
statements.

Importing this package loads all of them. A test compares them with a migrated database.
"""

from __future__ import annotations

from app.db.tables import access, alerts, budgets, events, usage

__all__ = ["access", "alerts", "budgets", "events", "usage"]
