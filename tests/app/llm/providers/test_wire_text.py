from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llm.providers.wire_text import Malformed, clean, decode

ANY = msgspec.json.Decoder(str)


class TestDecode:
    @pytest.mark.parametrize(
        ("raw", "text"),
        [
            (rb'"\ud83d"', "\ufffd"),
            (rb'"a\ude00b"', "a\ufffdb"),
            (rb'"\ud83d\ude00"', "\U0001f600"),
            (rb'"\ud83d\ud83d\ude00"', "\ufffd\U0001f600"),
            (rb'"\\ud83d \ud83d"', "\\ud83d \ufffd"),
        ],
    )
    def test_replaces_half_a_surrogate_pair(self, raw: bytes, text: str) -> None:
        assert decode(ANY, raw) == text

    @given(st.text(st.characters(codec=None), max_size=20))
    def test_keeps_all_that_is_text(self, text: str) -> None:
        paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

        assert decode(ANY, json.dumps(text).encode()) == paired

    @pytest.mark.parametrize("raw", [b"", b"{", b'"\xff"', b"[" * 200_000, b"7", rb'"\ud83d', b"<html>"])
    def test_refuses_what_is_not_the_json_asked_for(self, raw: bytes) -> None:
        with pytest.raises(Malformed):
            decode(ANY, raw)


class TestClean:
    def test_replaces_nul_alone(self) -> None:
        assert clean("a\0b\tc\n") == "a\ufffdb\tc\n"
