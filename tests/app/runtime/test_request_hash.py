"""Hashes of what calls are asked with."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.gateway.completions import CompletionRequest
from app.llm.messages import ImageUrl, InlineImage, InlinePdf, Message, Part, PdfUrl, Role, Text, TextDocument, Tool
from app.runtime.request_hash import digest

scalars = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=5)
values = st.recursive(
    scalars, lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3), below, max_size=3), max_leaves=8
)


def request(*parts: Part) -> CompletionRequest:
    return CompletionRequest((Message(Role.USER, parts),), tools=(Tool("search", {"type": "object"}),))


class TestADigest:
    @given(values, values)
    def test_is_the_same_for_the_same_values_alone(self, one: object, other: object) -> None:
        assert (digest(one) == digest(other)) == (repr(one) == repr(other))

    def test_distinguishes_what_differs_only_in_where_a_text_ends(self) -> None:
        assert digest(request(Text("a"), Text("b"))) != digest(request(Text("ab")))
        assert digest(["a", "1:b"]) != digest(["a1:b", ""])

    def test_distinguishes_kinds_of_parts(self) -> None:
        kinds: list[Part] = [
            Text("x"),
            ImageUrl("x"),
            InlineImage("x", "image/png"),
            PdfUrl("x"),
            InlinePdf("x"),
            InlinePdf("x", name="y"),
            TextDocument("x"),
        ]
        assert len({digest(request(kind)) for kind in kinds}) == len(kinds)

    def test_reads_large_texts_to_their_last_character(self) -> None:
        text = "\u4e2d\U0001f600x" * 100_000
        assert digest(request(Text(text + "a"))) == digest(request(Text(text + "a")))
        assert digest(request(Text(text + "a"))) != digest(request(Text(text + "b")))


def test_the_order_of_an_objects_names_says_nothing() -> None:
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
