from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.vectors.quotes import MIN_QUOTE_LENGTH, own_words

PASSAGE = "Steam is made by two boilers.\nOnly the “older” one\tburns oil, and it’s unlawful to sell it."
WORDS = st.lists(
    st.sampled_from(["steam", "Boiler", "“older”", "it’s", "oil,", "12", "水", "a", "unlawful"]), min_size=1, max_size=40
)
SPACE = st.sampled_from([" ", "\n", "\t", "  ", "\n\n", "\u00a0"])


@st.composite
def passages(draw: st.DrawFn) -> str:
    return "".join(word + draw(SPACE) for word in draw(WORDS))


def plain(text: str) -> str:
    return " ".join(text.translate(str.maketrans("“”’", '""\'')).split())


@given(passages(), st.data())
def test_words_of_the_passage_are_found_whatever_their_spaces_and_quotation_marks(passage: str, data: st.DataObject) -> None:
    words = passage.split()
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, len(words) - 1))
    quote = plain(data.draw(SPACE).join(words[first : last + 1]))

    found = own_words(quote, passage)

    if len(quote) < MIN_QUOTE_LENGTH and quote != plain(passage):
        assert found is None
    else:
        assert found is not None
        assert found in passage
        assert plain(found) == quote


@given(passages(), st.one_of(passages(), st.text(max_size=60)))
def test_whatever_is_found_is_in_the_passage_and_says_what_the_quote_says(passage: str, quote: str) -> None:
    found = own_words(quote, passage)

    assert (found is not None) == (own_words(plain(quote), plain(passage)) is not None)
    if found is not None:
        assert found in passage
        assert plain(found) == plain(quote)


@given(passages(), st.integers(0, 400), st.sampled_from("xX7水.,\"'"))
def test_a_quote_with_one_character_more_is_not_found(passage: str, at: int, added: str) -> None:
    text = plain(passage)
    at %= len(text) + 1
    changed = text[:at] + added + text[at:]
    assume(changed not in text)

    assert own_words(changed, passage) is None


@given(passages(), passages())
def test_two_parts_that_do_not_follow_each_other_are_not_found_as_one(passage: str, other: str) -> None:
    first, last = plain(passage), plain(other)
    between = "and between them something else stands"

    assert own_words(f"{first} {last}", f"{first} {between} {last}") is None
    assert own_words(f"{first} ... {last}", f"{first} {between} {last}") is None


@pytest.mark.parametrize(
    ("quote", "found"),
    [
        ("Steam is made by two boilers.", "Steam is made by two boilers."),
        ('Only the "older" one burns oil', "Only the “older” one\tburns oil"),
        ("two boilers. Only the", "two boilers.\nOnly the"),
        ("it's unlawful to sell it", "it’s unlawful to sell it"),
        ("  is made by two boilers  ", "is made by two boilers"),
        ("two boilers", None),
        ("made by two boil", None),
        ("lawful to sell it", None),
        ("Steam is made by Two boilers", None),
        ("Steam is made by two boilers. … burns oil", None),
        ("Steam is made by two boilers burns oil", None),
        ("", None),
        ("   ", None),
    ],
)
def test_a_quote_of_the_passage(quote: str, found: str | None) -> None:
    assert own_words(quote, PASSAGE) == found


def test_a_short_quote_is_found_only_if_it_is_the_whole_passage() -> None:
    assert own_words("Yes.", "\n Yes. ") == "Yes."
    assert own_words("Yes", "Yes.") is None


def test_a_quote_within_words_is_passed_over_for_a_later_one_of_whole_words() -> None:
    assert own_words("lawful to sell", "unlawful to sell, lawful  to sell") == "lawful  to sell"


def test_a_script_without_spaces_may_be_quoted_from_its_middle() -> None:
    passage = "这台旧锅炉每年冬天都会烧掉很多很多的石油和煤炭"

    assert own_words(passage[2:16], passage) == passage[2:16]
