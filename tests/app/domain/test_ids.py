"""Ids as UUIDs of version 7."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import RFC_4122

from app.domain.ids import new_uuid, new_uuids

NOW = datetime(2026, 7, 1, 12, 0, 0, 123000, tzinfo=UTC)


def test_each_has_the_version_the_variant_and_the_time() -> None:
    for made in (new_uuid(NOW), *new_uuids(NOW, 100)):
        assert (made.version, made.variant) == (7, RFC_4122)
        assert made.int >> 80 == int(NOW.timestamp() * 1000)


def test_many_of_one_time_differ_and_come_before_those_of_a_later_time() -> None:
    many = new_uuids(NOW, 1000)

    assert len(set(many)) == 1000
    assert max(many) < new_uuid(NOW + timedelta(milliseconds=1))
    assert new_uuids(NOW, 0) == []


def test_each_of_the_other_bits_is_random() -> None:
    ones = zeros = 0
    for made in new_uuids(NOW, 200):
        ones |= made.int
        zeros |= ~made.int
    free = (1 << 80) - 1 & ~(0xF << 76) & ~(0x3 << 62)
    assert (ones & free, zeros & free) == (free, free)
