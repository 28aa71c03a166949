"""The prompt prefixes that a provider has cached, until they expire. The least recently used prefixes are removed first."""

from __future__ import annotations

import time
from collections import OrderedDict

_CAPACITY = 20_000


class PrefixCache:
    def __init__(self, minimum_tokens: int) -> None:
        self.minimum_tokens = minimum_tokens
        self._expiry: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def read(self, prefix: bytes) -> bool:
        """A hit renews the prefix for its whole time to live."""
        known = self._expiry.get(prefix)
        if known is None:
            return False
        until, ttl = known
        now = time.monotonic()
        if until < now:
            del self._expiry[prefix]
            return False
        self._expiry[prefix] = (now + ttl, ttl)
        self._expiry.move_to_end(prefix)
        return True

    def write(self, prefix: bytes, ttl_seconds: float) -> None:
        self._expiry[prefix] = (time.monotonic() + ttl_seconds, ttl_seconds)
        while len(self._expiry) > _CAPACITY:
            self._expiry.popitem(last=False)

    def clear(self) -> None:
        self._expiry.clear()
