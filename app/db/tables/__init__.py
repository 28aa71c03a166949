"""Importing this package knows every table; a new module of tables is named here."""

from __future__ import annotations

from app.db.tables import access

__all__ = ["access"]
