"""The text of a key: `sk-<hint>-<secret part>`. The hint finds the row and may be shown. The rest is 190 random bits.

Only the SHA-256 of the whole text is stored. A slow hash protects secrets that people choose. 190 random bits cannot be
guessed, so a slow hash would protect nothing and slow down every call.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string

_HINT_LETTERS = string.ascii_lowercase + string.digits
_SECRET_LETTERS = string.ascii_letters + string.digits
_HINT_LENGTH = 12
_SECRET_LENGTH = 32
_NO_HASH = secrets.token_bytes(32)
_FORMAT = re.compile(rf"sk-([a-z0-9]{{{_HINT_LENGTH}}})-[A-Za-z0-9]{{{_SECRET_LENGTH}}}", re.ASCII)


def new_secret() -> tuple[str, str]:
    """Returns the hint and the whole text of a new key."""
    hint = "".join(secrets.choice(_HINT_LETTERS) for _ in range(_HINT_LENGTH))
    return hint, f"sk-{hint}-{''.join(secrets.choice(_SECRET_LETTERS) for _ in range(_SECRET_LENGTH))}"


def hint_of(bearer: str) -> str | None:
    """Returns the hint; None if the text does not have the form of a key."""
    found = _FORMAT.fullmatch(bearer)
    return found[1] if found else None


def hash_secret(bearer: str) -> bytes:
    return hashlib.sha256(bearer.encode()).digest()


def matches(found: bytes, secret_hash: bytes | None) -> bool:
    """Compares in constant time. None is never equal and takes the same time."""
    return hmac.compare_digest(found, secret_hash or _NO_HASH)
