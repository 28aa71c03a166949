from __future__ import annotations

import pytest

from app.domain.errors import Refused
from app.domain.problems import InvalidInput
from resolvers.inputs.checks import check_range


class TestRange:
    @pytest.mark.parametrize(
        ("number", "least", "most", "message"),
        [
            (2_147_483_647, 1, 10_000_000, "The number is 2147483647; 1 to 10000000 are allowed."),
            (-0.5, 0.0, 2.0, "The number is -0.5; 0 to 2 are allowed."),
            (1e300, 0, 100, f"The number is 1{'0' * 300}; 0 to 100 are allowed."),
            (float("nan"), 0, 1, "The number is NaN; 0 to 1 are allowed."),
        ],
    )
    def test_what_lies_outside_is_refused_in_plain_digits(self, number: float, least: float, most: float, message: str) -> None:
        with pytest.raises(Refused) as refused:
            check_range(number, least, most, ("maxOutputTokens",))
        assert refused.value.reason == InvalidInput(message, ("maxOutputTokens",))

    @pytest.mark.parametrize("number", [1, 10_000_000, None])
    def test_bounds_belong_to_it_and_nothing_is_no_number(self, number: float | None) -> None:
        check_range(number, 1, 10_000_000, ())
