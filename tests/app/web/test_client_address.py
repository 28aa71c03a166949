from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Scope

from app.web.client_address import MAX_PROXIES, TrustedProxies

PROXIES = TrustedProxies(("10.0.0.0/8", "2001:db8:1::/48"))


def scope(peer: str | None, *headers: tuple[str, str], scheme: str = "http") -> Scope:
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return {"type": "http", "scheme": scheme, "client": (peer, 1234) if peer is not None else None, "headers": pairs}


def forwarded_for(value: str) -> tuple[str, str]:
    return "x-forwarded-for", value


class TestWithoutATrustedPeer:
    @pytest.mark.parametrize("peer", ["192.0.2.7", "11.0.0.1", "2001:db8:2::1"])
    def test_what_is_forwarded_is_not_believed(self, peer: str) -> None:
        assert PROXIES.client_address(scope(peer, forwarded_for("198.51.100.1"), ("forwarded", "for=198.51.100.1"))) == peer

    def test_no_one_is_trusted_by_default(self) -> None:
        assert TrustedProxies().client_address(scope("127.0.0.1", forwarded_for("198.51.100.1"))) == "127.0.0.1"
        assert not TrustedProxies().trusts("127.0.0.1")

    def test_a_peer_without_an_address_has_none(self) -> None:
        assert PROXIES.client_address(scope(None, forwarded_for("198.51.100.1"))) is None

    def test_an_ipv4_peer_on_an_ipv6_socket_is_an_ipv4_peer(self) -> None:
        assert PROXIES.client_address(scope("::ffff:192.0.2.7")) == "192.0.2.7"
        assert PROXIES.trusts("::ffff:10.1.2.3")


class TestBehindATrustedProxy:
    @pytest.mark.parametrize(
        ("headers", "expected"),
        [
            ([], "10.0.0.1"),
            ([forwarded_for("198.51.100.1")], "198.51.100.1"),
            ([forwarded_for("203.0.113.9, 198.51.100.1")], "198.51.100.1"),
            ([forwarded_for("203.0.113.9, 198.51.100.1, 10.2.3.4")], "198.51.100.1"),
            ([forwarded_for("203.0.113.9"), forwarded_for("198.51.100.1")], "198.51.100.1"),
            ([forwarded_for("10.9.9.9, 10.2.3.4")], "10.9.9.9"),
            ([forwarded_for("198.51.100.1, nonsense, 10.2.3.4")], "10.2.3.4"),
            ([forwarded_for("198.51.100.1, ")], "10.0.0.1"),
            ([forwarded_for("unknown")], "10.0.0.1"),
            ([forwarded_for("198.51.100.1:4711")], "198.51.100.1"),
            ([forwarded_for("2001:DB8:2::0:1")], "2001:db8:2::1"),
            ([forwarded_for("[2001:db8:2::1]:4711")], "2001:db8:2::1"),
            ([forwarded_for("::ffff:198.51.100.1")], "198.51.100.1"),
            ([("forwarded", "for=198.51.100.1;proto=https;by=10.0.0.1")], "198.51.100.1"),
            ([("forwarded", 'proto=https; For="[2001:db8:2::1]:4711"')], "2001:db8:2::1"),
            ([("forwarded", "for=203.0.113.9, for=198.51.100.1, for=10.2.3.4")], "198.51.100.1"),
            ([("forwarded", "for=203.0.113.9, for=_hidden")], "10.0.0.1"),
            ([("forwarded", "for=203.0.113.9, by=10.2.3.4")], "10.0.0.1"),
            ([("forwarded", "for=203.0.113.9"), forwarded_for("198.51.100.1")], "198.51.100.1"),
        ],
    )
    def test_it_is_the_nearest_address_that_is_no_proxy(self, headers: list[tuple[str, str]], expected: str) -> None:
        assert PROXIES.client_address(scope("10.0.0.1", *headers)) == expected

    def test_a_client_that_names_proxies_without_end_is_followed_so_far_only(self) -> None:
        named = ", ".join(["203.0.113.9", *["10.0.0.2"] * MAX_PROXIES])
        assert PROXIES.client_address(scope("10.0.0.1", forwarded_for(named))) == "10.0.0.2"

    @given(spoofed=st.text(st.characters(max_codepoint=255, exclude_characters="\r\n")), client=st.ip_addresses())
    def test_no_client_can_choose_its_own(self, spoofed: str, client: object) -> None:
        """A proxy adds the address it sees to whatever its client sent."""
        seen = TrustedProxies().client_address(scope(str(client)))
        if not PROXIES.trusts(seen):
            assert PROXIES.client_address(scope("10.0.0.1", forwarded_for(f"{spoofed}, {client}"))) == seen


class TestTls:
    @pytest.mark.parametrize(
        ("found", "expected"),
        [
            (scope("192.0.2.7"), False),
            (scope("192.0.2.7", scheme="https"), True),
            (scope("192.0.2.7", ("x-forwarded-proto", "https")), False),
            (scope(None, ("x-forwarded-proto", "https")), False),
            (scope("10.0.0.1"), False),
            (scope("10.0.0.1", ("x-forwarded-proto", "HTTPS")), True),
            (scope("10.0.0.1", ("x-forwarded-proto", "http")), False),
            (scope("10.0.0.1", ("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")), False),
        ],
    )
    def test_only_a_trusted_proxy_may_say_so(self, found: Scope, expected: bool) -> None:  # noqa: FBT001 (a table's column)
        assert TrustedProxies(("10.0.0.0/8",)).is_https(found) is expected
