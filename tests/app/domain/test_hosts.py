"""Hosts of URLs, in every spelling that some parser takes for an address."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.hosts import is_numeric, is_public_address, is_public_host, is_public_url

INTERNATIONAL = [
    "bücher.example",
    "例え.テスト",
    "उदाहरण.परीक्षा",
    "xn--bcher-kva.example",
    "_dmarc.a-b.example",
    "bu\u0308cher.example",
]


class TestAddresses:
    @pytest.mark.parametrize(
        "address",
        [
            "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200", "0.0.0.0",
            "0.1.2.3", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.0.192", "198.18.0.1", "168.63.129.16", "203.0.113.9",
            "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
            "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::",
            "2001:0:7f00:1::1", "2001:db8::1", "3fff::1", "100::1",
        ],
    )  # fmt: skip
    def test_that_are_not_public(self, address: str) -> None:
        assert not is_public_address(ip_address(address))
        assert not is_public_host(address)

    @pytest.mark.parametrize(
        "address",
        ["93.184.215.14", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"],
    )
    def test_that_are_public(self, address: str) -> None:
        assert is_public_address(ip_address(address))
        assert is_public_host(address)


class TestSpellings:
    @pytest.mark.parametrize(
        "host",
        [
            "127.1", "127.0.1", "2130706433", "017700000001", "0x7f000001", "0x7f.1", "0X7F.0.0.1", "0177.0.0.1", "127.0.0.1.",
            "１２７.0.0.1", "127。0。0。1", "①②⑦.0.0.1", "127.0.0\u00ad.1", "%31%32%37.0.0.1", "fe80::1%eth0",
            "localhost", "LOCALHOST", "localhost.", "api.localhost", "a.b.localhost.", "loc\u00adalhost", "ｌocalhost", "",
            "1.2.3", "8.8", "1.2.3.4.5", "256.1.1.1", "09.1.1.1", "foo.0x7f", "1.2.3.4.5.6.", "example%2ecom", "localhost%00",
            "example.com%", "a b.com", "a@b.com", "a:b", "a/b", "a!b.com", "[::1]",
        ],
    )  # fmt: skip
    def test_that_are_not_public(self, host: str) -> None:
        assert not is_public_host(host)

    @pytest.mark.parametrize(
        "host", ["example.com", "example.com.", "localhost.example.com", "1password.com", "1.2.3.example", *INTERNATIONAL]
    )
    def test_that_are_public(self, host: str) -> None:
        assert is_public_host(host)

    @given(st.integers(0, 2**32 - 1), st.sampled_from(["{}", "0x{:x}", "0{:o}", "1.{}", "1.0x{:x}", "1.1.0{:o}"]))
    def test_of_numbers_that_are_no_usual_address_are_not_public(self, number: int, form: str) -> None:
        assert not is_public_host(form.format(number))

    @given(st.integers(0, 2**32 - 1))
    def test_of_four_numbers_are_judged_as_the_address_that_they_are(self, number: int) -> None:
        assert is_public_host(str(IPv4Address(number))) == is_public_address(IPv4Address(number))

    @given(st.text(max_size=40))
    def test_of_any_kind_are_judged(self, host: str) -> None:
        assert is_public_host(host) in {True, False}
        assert is_numeric(host) in {True, False}
        assert is_public_url(f"http://{host}/") in {True, False}


class TestUrls:
    @pytest.mark.parametrize(
        "url",
        [
            "http://127.0.0.1/a.png", "http://user:pass@127.0.0.1:8080/", "http://example.com@10.0.0.1/", "http://[::1]/",
            "http://[::ffff:10.0.0.1]:80/", "http://127.0.0.1\\@example.com/",
            "http://example.com\\@127.0.0.1/",
            "http://127.0.0.1\t/",
            "http://12\n7.0.0.1/", "http://localhost:9/", "http://0/", "http:///a", "http://[fe80::1%25eth0]/", "http://[::1/",
        ],
    )  # fmt: skip
    def test_that_are_not_public(self, url: str) -> None:
        assert not is_public_url(url)

    @pytest.mark.parametrize(
        "escape",
        [
            "%3a80",
            "%00",
            "%2f",
            "%23",
            "%3f",
            "%5c",
            "%20",
            "%09",
            ".%",
            "%",
            "%252e",
            "%2e",
            "%40example.com",
            "%2f@example.com",
        ],
    )
    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
    def test_with_an_escape_before_the_path_are_not_public(self, host: str, escape: str) -> None:
        assert not is_public_url(f"http://{host}{escape}/")
        assert not is_public_url(f"http://{host}{escape}:80/a.png")

    @pytest.mark.parametrize(
        "url",
        [
            "http://x%40localhost/", "http://%5b::1%5d/", "http://example.com:80%40localhost/", "http://example.com:0/",
            "http://example.com:8x/", "http://example%2ecom/", "http://a!b.example/",
        ],
    )  # fmt: skip
    def test_whose_host_depends_on_the_parser_are_not_public(self, url: str) -> None:
        assert not is_public_url(url)

    @pytest.mark.parametrize(
        "url",
        [
            "https://example.com:8443/a%20b.png?u=%2f#%40",
            "https://bücher.example/",
            "https://user:pw@example.com/",
            "https://example.com/a.png",
            "http://1.1.1.1/?u=http://127.1",
            "https://e.com/#@127.0.0.1",
        ],
    )
    def test_that_are_public(self, url: str) -> None:
        assert is_public_url(url)
