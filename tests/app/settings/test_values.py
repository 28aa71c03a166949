from __future__ import annotations

from urllib.parse import urlsplit

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from app.settings.values import Url

URL: TypeAdapter[str] = TypeAdapter(Url)


class TestAnAddress:
    @pytest.mark.parametrize(
        "host",
        [
            ".", "..", "\u2603", "\u2603\u2603.de",
            "h\\x", "h%zz", "h%20a", "a" * 64, "a" * 70 + ".com",
            ".".join(["a" * 60] * 5), "a,b", "a*b", "a;b", "a|b", "a^b", "{x}", "a<b", "a\"b", "a'b", "a!b", "a$b", "a&b", "a+b",
            "a=b", "a~b", "(a)", "999.1.1.1", "1.2.3.256", "\u00ad", "\u200b", "a\u0300\u00ad..b", "\u0300a", "[1:2]", "[::1%]x",
            "[::g]", "h:0", "h:65536", "h:-1", "h:abc", "h:\u0661", "a b", "\u0627a", "x\u2024..y",
        ],
    )  # fmt: skip
    def test_whose_host_no_client_can_look_up_is_refused(self, host: str) -> None:
        with pytest.raises(ValidationError):
            URL.validate_python(f"http://{host}/v1")

    @pytest.mark.parametrize(
        "host",
        [
            "localhost", "host.docker.internal", "my_server", "_a", "-a", "a-", "my_srv.my_net:80", "A.Example", "a.example.",
            "x",
            "127.0.0.1", "10.0.0.1:8080", "127.1", "[::1]", "[::1]:8080", "[fe80::1%25eth0]", "h:1", "h:65535", "h:",
            "a" * 63,
            "xn--bcher-kva.example", "b\u00fccher.example:8080", "\u00fc.de", "fa\u00df.de", "\u5fae\u8f6f.cn",
            "\u30c6\u30b9\u30c8.jp",
            "\u05d0\u05d1.co.il", "model-1_2.svc.cluster.local", "1and1.example", "3com",
        ],
    )  # fmt: skip
    def test_that_a_client_takes_is_accepted(self, host: str) -> None:
        address = f"http://{host}/v1"
        assert URL.validate_python(address) == address
        httpx2.URL(address)

    @given(st.text(st.characters(codec="utf-8", exclude_characters="/?#@:[]"), min_size=1, max_size=12))
    def test_that_is_accepted_is_one_that_the_client_takes(self, host: str) -> None:
        address = f"http://{host}/v1"
        try:
            accepted = URL.validate_python(address)
        except ValidationError:
            return
        raw = httpx2.URL(accepted).raw_host.decode()
        assert urlsplit(accepted).hostname
        assert all(len(label) <= 63 for label in raw.split("."))
