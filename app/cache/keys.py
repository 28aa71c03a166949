"""What an entry is called: its tenant, and a name that the tenant can invalidate.

    completion/<target as asked>/<32 hex digits of what was asked>
    embedding/<target>/<32 hex digits>

The digits are part of a SHA-256 over everything that reaches the provider. Nothing is shared between tenants.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

_DIGITS = 32


class EntryKind(StrEnum):
    COMPLETION = "completion"
    EMBEDDING = "embedding"


@dataclass(frozen=True, slots=True)
class EntryKey:
    tenant: str
    name: str

    @property
    def context(self) -> bytes:
        """The tenant and name of the entry. Content that is sealed for one key cannot be opened with another."""
        return self.tenant.encode() + b"\0" + self.name.encode()


def entry_key(tenant: str, kind: EntryKind, target: str, asked: bytes) -> EntryKey:
    """`asked` is a digest of everything that decides the answer."""
    return EntryKey(tenant, f"{kind.value}/{target}/{asked.hex()[:_DIGITS]}")


def tenant_label(tenant: str) -> str:
    """A short text for the names in stores. It is different for each tenant and has a fixed length."""
    return hashlib.sha256(tenant.encode()).hexdigest()[:_DIGITS]
