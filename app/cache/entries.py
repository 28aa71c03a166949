"""An entry of the cache, and how it is encoded in a store outside of this process.

Invariant: a read returns what was written for this very key, or nothing. The encoding has a version. It is sealed with the
content key if there is one; otherwise it has a checksum over the key and the body. Anything else counts as damaged, and that is
a miss.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import msgspec

from app.cache.keys import EntryKey
from app.secrets.sealing import Sealer, UnsealError

_VERSION = b"\x02"
_PLAIN, _COMPRESSED = b"\x00", b"\x01"
_COMPRESS_FROM_BYTES = 2048
_WORTH_IT = 0.9
_MAX_BYTES = 64 * 1024 * 1024
_CHECKSUM_BYTES = 16


@dataclass(frozen=True, slots=True)
class Entry:
    """The cache does not read `body`. `began_at` is when the call for the answer began, by the database's clock; a later
    invalidation applies to this entry. `cost_usd` is what the answer cost; None if the price was unknown."""

    body: bytes
    began_at: datetime
    stored_at: datetime
    expires_at: datetime
    tags: tuple[str, ...] = ()
    cost_usd: Decimal | None = None


class EntryCodec:
    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Entry)

    def encode(self, key: EntryKey, entry: Entry) -> bytes:
        plain = self._encoder.encode(entry)
        form = _PLAIN
        if len(plain) >= _COMPRESS_FROM_BYTES:
            compressed = zlib.compress(plain, 1)
            if len(compressed) < _WORTH_IT * len(plain):
                plain, form = compressed, _COMPRESSED
        if not self._sealer.has_key:
            plain = _checksum(key, plain) + plain
        return _VERSION + form + self._sealer.seal(plain, key.context)

    def decode(self, key: EntryKey, stored: bytes) -> Entry | None:
        """Returns None if the entry is damaged or has another version, key or content key."""
        form = stored[1:2]
        if stored[:1] != _VERSION or form not in {_PLAIN, _COMPRESSED} or len(stored) > _MAX_BYTES:
            return None
        try:
            plain = self._sealer.unseal(stored[2:], key.context)
            if not self._sealer.has_key:
                checksum, plain = plain[:_CHECKSUM_BYTES], plain[_CHECKSUM_BYTES:]
                if checksum != _checksum(key, plain):
                    return None
            if form == _COMPRESSED:
                plain = _decompress(plain)
            return self._decoder.decode(plain)
        except (UnsealError, zlib.error, msgspec.MsgspecError):
            return None


def _decompress(data: bytes) -> bytes:
    """Raises zlib.error, also if the result would be larger than any entry."""
    decompressor = zlib.decompressobj()
    plain = decompressor.decompress(data, _MAX_BYTES)
    if not decompressor.eof:
        raise zlib.error("not one whole entry")
    return plain


def _checksum(key: EntryKey, data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_CHECKSUM_BYTES, key=hashlib.sha256(key.context).digest()).digest()
