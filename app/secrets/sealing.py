"""Content that is encrypted at rest. Sealed content names its key, so the key can be changed and older content can still be
read.

Each seal uses its own key, derived from the configured key and fresh random bytes, so no key is used too often.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Sequence
from functools import partial
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.domain.errors import GreenLangError, SettingsError
from app.secrets.reference import SecondStep, SecretReference

_KEY_BYTES: Final = 32
_KEY_ID_BYTES: Final = 4
_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_OPEN: Final = b"\x00"
_SEALED: Final = b"\x01"


class UnsealError(GreenLangError):
    """The content was sealed with a key that is not configured or in another context, or it was changed."""


class UnknownKeyError(UnsealError):
    """The content was sealed with a key that this Sealer does not have."""


class Sealer:
    """AES-256-GCM with the first of `keys`. The others open older content. Without a key, content is stored unencrypted, and it
    can still be read after a key is configured."""

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        self._keys = {_key_id(key): key for key in keys}
        self._current = _key_id(keys[0]) if keys else None

    def open_with(self, key: bytes) -> None:
        """From now on, also opens what `key` has sealed."""
        self._keys.setdefault(_key_id(key), key)

    def seal_with(self, key: bytes) -> None:
        """From now on, seals with `key`."""
        self.open_with(key)
        self._current = _key_id(key)

    @property
    def has_key(self) -> bool:
        return self._current is not None

    def opening_also(self, other: Sealer) -> Sealer:
        """Seals as this one does, or as `other` if this one has no key. Opens what either of them can open."""
        return Sealer([*self._in_order(), *other._in_order()])

    def seal(self, content: bytes, context: bytes) -> bytes:
        """`context` says whose content it is. It must be the same for unseal, and it is not part of the result."""
        if self._current is None:
            return _OPEN + content
        salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
        sealed = AESGCM(_derive(self._keys[self._current], salt)).encrypt(nonce, content, context)
        return b"".join((_SEALED, self._current, salt, nonce, sealed))

    def unseal(self, sealed: bytes, context: bytes) -> bytes:
        """Raises UnsealError."""
        if sealed[:1] == _OPEN:
            return sealed[1:]
        mark, key_id, salt, nonce, rest = _cut(sealed, len(_SEALED), _KEY_ID_BYTES, _SALT_BYTES, _NONCE_BYTES)
        key = self._keys.get(key_id)
        if mark != _SEALED or not rest:
            raise UnsealError("not sealed by a configured key")
        if key is None:
            raise UnknownKeyError("not sealed by a configured key")
        try:
            return AESGCM(_derive(key, salt)).decrypt(nonce, rest, context)
        except InvalidTag:
            raise UnsealError("sealed in another context, or changed since") from None

    def secret(self, purpose: bytes) -> bytes | None:
        """Returns a secret that follows from the current key, another one for each purpose. None without a key."""
        key = None if self._current is None else self._keys[self._current]
        return None if key is None else hmac.digest(key, b"greenlang secret " + purpose, "sha256")

    def _in_order(self) -> Sequence[bytes]:
        return tuple(self._keys.values())


def build_sealer(references: Sequence[SecretReference]) -> Sealer:
    """Each secret is 32 random bytes in base64 or hexadecimal. Raises SettingsError for any other value. A secret that changes is
    a further key: it opens at once, and it seals when every process can open with it."""
    sealer = Sealer([_read_key(reference, reference.reveal()) for reference in references])
    for place, reference in enumerate(references):
        reference.on_change(partial(_take_key, sealer, reference, place == 0))
    return sealer


def _take_key(sealer: Sealer, reference: SecretReference, is_first: bool, text: str) -> SecondStep | None:  # noqa: FBT001 (bound by place)
    key = _read_key(reference, text)
    sealer.open_with(key)
    return partial(sealer.seal_with, key) if is_first else None


def _read_key(reference: SecretReference, text: str) -> bytes:
    for decode in (bytes.fromhex, _from_base64):
        try:
            key = decode(text)
        except ValueError:
            continue
        if len(key) == _KEY_BYTES:
            return key
    raise SettingsError(
        reference.name,
        "is not a key: it must be 32 random bytes in base64 or hexadecimal, as `openssl rand -base64 32` prints them",
    )


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"greenlang key id" + key).digest()[:_KEY_ID_BYTES]


def _derive(key: bytes, salt: bytes) -> bytes:
    return hmac.digest(key, b"greenlang content" + salt, "sha256")


def _cut(data: bytes, *lengths: int) -> tuple[bytes, ...]:
    """Splits the data into pieces of these lengths and the rest. Pieces are short if the data are."""
    pieces = []
    for length in lengths:
        pieces.append(data[:length])
        data = data[length:]
    return (*pieces, data)
