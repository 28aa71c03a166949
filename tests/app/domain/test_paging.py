from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import Refused
from app.domain.paging import decode_time_cursor, encode_cursor, encode_time_cursor
from app.domain.problems import InvalidInput

KEY = UUID(int=7)


class TestCursorOfTimeAndKey:
    @given(st.datetimes(timezones=st.just(UTC)), st.uuids())
    def test_comes_back_as_the_position_it_was_made_of(self, at: datetime, key: UUID) -> None:
        assert decode_time_cursor("alerts", encode_time_cursor("alerts", at, key)) == (at, key)

    def test_gives_the_time_in_utc(self) -> None:
        at = datetime(2026, 11, 30, 1, tzinfo=timezone(timedelta(hours=2)))
        found, _ = decode_time_cursor("alerts", encode_time_cursor("alerts", at, KEY))
        assert found.isoformat() == "2026-11-29T23:00:00+00:00"

    @pytest.mark.parametrize(
        "cursor",
        [
            pytest.param(encode_time_cursor("records", datetime(2026, 11, 30, tzinfo=UTC), KEY), id="of another list"),
            pytest.param(encode_cursor("alerts", "2026-11-30T00:00:00", KEY.hex), id="without an offset"),
            pytest.param(encode_cursor("alerts", "0001-01-01T00:00:00+14:00", KEY.hex), id="before the first year"),
            pytest.param(encode_cursor("alerts", "yesterday", KEY.hex), id="no time"),
            pytest.param(encode_cursor("alerts", "2026-11-30T00:00:00+00:00", "7"), id="no key"),
            pytest.param(encode_cursor("alerts", "2026-11-30T00:00:00+00:00"), id="a part too few"),
            pytest.param("?", id="no cursor"),
        ],
    )
    def test_refuses_any_other_text(self, cursor: str) -> None:
        with pytest.raises(Refused) as caught:
            decode_time_cursor("alerts", cursor)
        assert caught.value.reason == InvalidInput("this is not a cursor of this list", ("after",))
