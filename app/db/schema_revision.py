"""Whether a database has the schema of this version."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sqlalchemy import text

from app.db.sessions import ReadSession

_VERSIONS = Path(__file__).resolve().parents[2] / "migrations" / "versions"
_TABLE = text("select /* health.schema_table */ to_regclass('alembic_version') is not null")
_REVISION = text("select /* health.schema */ max(version_num) from alembic_version")


@cache
def newest_revision() -> str:
    """Revisions are numbers of four digits, with which the names of their files begin."""
    return max(file.name[:4] for file in _VERSIONS.glob("[0-9]*.py"))


async def has_schema(session: ReadSession) -> bool:
    """Whether the schema is that of this version or a newer one. Raises StoreUnavailable."""
    if not (await session.execute(_TABLE)).scalar_one():
        return False
    found: str | None = (await session.execute(_REVISION)).scalar_one()
    return found is not None and found >= newest_revision()
