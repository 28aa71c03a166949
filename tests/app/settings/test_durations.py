from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.settings.durations import MAX_DURATION, format_duration, parse_duration


class TestWrittenLengths:
    @pytest.mark.parametrize(
        ("written", "length"),
        [
            ("250ms", timedelta(milliseconds=250)),
            ("30s", timedelta(seconds=30)),
            ("5m", timedelta(minutes=5)),
            ("24h", timedelta(hours=24)),
            ("7d", timedelta(days=7)),
            ("1.5h", timedelta(minutes=90)),
            (" 30 s ", timedelta(seconds=30)),
            ("90", timedelta(seconds=90)),
            (90, timedelta(seconds=90)),
            (0.25, timedelta(milliseconds=250)),
            (0, timedelta(0)),
        ],
    )
    def test_mean_what_people_expect(self, written: object, length: timedelta) -> None:
        assert parse_duration(written) == length

    @pytest.mark.parametrize(
        "written",
        ["", "s", "5 years", "-1s", "1e3s", "٣s", "1h30m", True, None, float("nan"), float("inf"), -1, -0.5, [], "9" * 12 + "d"],
    )
    def test_refuse_what_is_none(self, written: object) -> None:
        with pytest.raises(ValueError, match="a length of time is"):
            parse_duration(written)

    def test_do_not_repeat_what_was_written(self) -> None:
        with pytest.raises(ValueError, match="a length of time is") as caught:
            parse_duration("sk-hidden")
        assert "sk-hidden" not in str(caught.value)


class TestRoundTrip:
    @given(st.timedeltas(min_value=timedelta(0), max_value=MAX_DURATION))
    def test_a_length_comes_back_to_the_microsecond(self, length: timedelta) -> None:
        assert parse_duration(format_duration(length)) == length

    @given(st.text())
    def test_any_text_is_a_length_or_a_value_error(self, text: str) -> None:
        try:
            length = parse_duration(text)
        except ValueError:
            return
        assert timedelta(0) <= length <= MAX_DURATION
