"""The caller, as its valid key describes it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final
from uuid import UUID


class Scope(Enum):
    COMPLETIONS = "COMPLETIONS"
    COSTS = "COSTS"
    BUDGETS = "BUDGETS"
    BUDGETS_READ = "BUDGETS_READ"
    VECTORS = "VECTORS"
    CACHE = "CACHE"
    PROVIDERS = "PROVIDERS"
    ADMIN = "ADMIN"


WIDER: Final = {Scope.BUDGETS_READ: Scope.BUDGETS}
"""The scopes that a scope includes."""
ONLY_READ: Final = frozenset({Scope.COSTS, Scope.BUDGETS_READ})


@dataclass(frozen=True, slots=True)
class Principal:
    """`agent` is the one agent that the key is bound to. `requests_per_minute` and `max_concurrent` are the key's own limits."""

    key_id: UUID
    key_name: str
    tenant: str
    scopes: frozenset[Scope]
    agent: str | None = None
    expires_at: datetime | None = None
    requests_per_minute: int | None = None
    max_concurrent: int | None = None
    hint: str | None = None
    """The public part of the key."""

    @property
    def may_write(self) -> bool:
        """Whether the key may do anything that changes what it can read."""
        return not self.scopes <= ONLY_READ

    def may(self, scope: Scope) -> bool:
        """ADMIN includes every scope, and BUDGETS includes BUDGETS_READ."""
        return scope in self.scopes or Scope.ADMIN in self.scopes or WIDER.get(scope) in self.scopes
