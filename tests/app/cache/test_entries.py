"""What is read from a store is what was written for this key, or nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cache.entries import Entry, EntryCodec
from app.cache.keys import EntryKey
from app.secrets.sealing import Sealer
from tests.app.cache.cached import a_key, an_entry

SEALED = EntryCodec(Sealer([b"k" * 32]))
OPEN = EntryCodec(Sealer())
CODECS = pytest.mark.parametrize("codec", [SEALED, OPEN], ids=["sealed", "with a checksum"])
KEY = a_key("acme", "completion/default/0123")


@CODECS
@given(
    body=st.binary(max_size=5000),
    tags=st.lists(st.text(max_size=20), max_size=3).map(tuple),
    cost=st.none() | st.decimals(0, 1000, places=12),
    seconds=st.integers(0, 10**6),
)
def test_an_entry_comes_back_as_it_was(
    codec: EntryCodec, body: bytes, tags: tuple[str, ...], cost: Decimal | None, seconds: int
) -> None:
    at = datetime(2026, 11, 30, 12, 0, 0, 123456, tzinfo=UTC)
    entry = Entry(body, at, at, at + timedelta(seconds=seconds), tags, cost)
    assert codec.decode(KEY, codec.encode(KEY, entry)) == entry


@CODECS
def test_no_other_tenant_and_no_other_name_opens_it(codec: EntryCodec) -> None:
    stored = codec.encode(KEY, an_entry())
    assert codec.decode(replace(KEY, tenant="rival"), stored) is None
    assert codec.decode(replace(KEY, name="completion/default/0124"), stored) is None
    assert codec.decode(EntryKey("acm", "e" + KEY.name), stored) is None


@CODECS
@pytest.mark.parametrize("size", [10, 50_000])
def test_a_changed_byte_anywhere_is_a_miss(codec: EntryCodec, size: int) -> None:
    stored = codec.encode(KEY, an_entry(b"x" * size))
    for place in range(len(stored)):
        changed = stored[:place] + bytes([stored[place] ^ 0x40]) + stored[place + 1 :]
        assert codec.decode(KEY, changed) is None, place
        assert codec.decode(KEY, stored[:place]) is None, place


def test_a_content_key_that_is_gone_is_a_miss() -> None:
    stored = SEALED.encode(KEY, an_entry())
    assert OPEN.decode(KEY, stored) is None
    assert EntryCodec(Sealer([b"n" * 32])).decode(KEY, stored) is None
    assert EntryCodec(Sealer([b"n" * 32, b"k" * 32])).decode(KEY, stored) is not None


def test_what_was_stored_without_a_content_key_is_a_miss_once_there_is_one() -> None:
    assert SEALED.decode(KEY, OPEN.encode(KEY, an_entry())) is None


def test_long_text_is_kept_compressed() -> None:
    assert len(OPEN.encode(KEY, an_entry(b"the same words " * 1000))) < 1000
