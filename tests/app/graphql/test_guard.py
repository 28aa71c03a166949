from __future__ import annotations

import time

import pytest
from graphql import get_introspection_query, parse

from app.domain.errors import LimitExceeded
from app.graphql.guard import Guard
from app.settings import LimitSettings
from tests.app.graphql.asgi import Client
from tests.app.graphql.shop import Shop, with_limits

LIMITS = LimitSettings()


def refused(text: str, limits: LimitSettings = LIMITS) -> tuple[str, int, int] | None:
    try:
        Guard(parse(text), limits).check()
    except LimitExceeded as error:
        return error.limit, error.had, error.allowed
    return None


def nested(depth: int) -> str:
    return "{ a " * depth + "}" * depth


def bomb(levels: int) -> str:
    """Each fragment spreads the next one twice: 2 to the power of `levels` fields in a few hundred bytes."""
    fragments = [f"fragment F{level} on Query {{ ...F{level + 1} ...F{level + 1} }}" for level in range(levels)]
    return f"{{ ...F0 }} {' '.join(fragments)} fragment F{levels} on Query {{ a }}"


class TestLimits:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (nested(12), None),
            (nested(13), ("depth", 13, 12)),
            ("{ ...F } fragment F on Query { a " + nested(12) + " }", ("depth", 13, 12)),
            ("{ " + " ".join(f"a{n}" for n in range(20)) + " }", None),
            ("{ " + " ".join(f"a{n}" for n in range(21)) + " }", ("root fields", 21, 20)),
            ("{ r { " + " ".join(f"a{n}" for n in range(500)) + " } }", ("fields", 501, 500)),
            ("{ r { " + " ".join(f"a{n}: b" for n in range(31)) + " } }", ("aliases", 31, 30)),
            ("{ r { " + "a " * 11 + " } }", ("uses of one response key in a selection set", 11, 10)),
            ("{ r { " + "a: b " * 11 + " } }", ("uses of one response key in a selection set", 11, 10)),
            ("{ a " + "@x " * 5 + "}", ("directives on one selection", 5, 4)),
            ("{ " + " ".join(f"a{n} @x @x" for n in range(11)) + " }", ("directives", 22, 20)),
            ("query @a @a @a @a @a { b }", ("directives on one selection", 5, 4)),
            ("query($v: Int @a @a @a @a @a) { b }", ("directives on one selection", 5, 4)),
            ("query(" + " ".join(f"$v{n}: Int @a @a @a" for n in range(7)) + ") { b }", ("directives", 21, 20)),
            (" ".join(f"query Q{n} {{ a }}" for n in range(11)), ("operations", 11, 10)),
        ],
    )
    def test_the_first_one_passed_is_named(self, text: str, expected: tuple[str, int, int] | None) -> None:
        assert refused(text) == expected

    def test_keys_repeated_by_fragments_count(self) -> None:
        spread = "{ r { " + "...F " * 11 + "} } fragment F on R { a }"
        assert refused(spread) == ("uses of one response key in a selection set", 11, 10)
        inline = "{ r { " + "... on R { a } " * 11 + "} }"
        assert refused(inline) == ("uses of one response key in a selection set", 11, 10)

    def test_an_unused_fragment_counts(self) -> None:
        assert refused("{ a } fragment F on Query { b " + nested(13) + " }") == ("depth", 14, 12)

    def test_circles_are_left_to_validation(self) -> None:
        assert refused("{ ...F } fragment F on Query { a ...F }") is None
        assert refused("{ ...F } fragment F on Query { ...G } fragment G on Query { ...F }") is None
        assert refused("{ ...Nope }") is None


class TestIntrospection:
    def test_the_standard_query_passes_whatever_its_depth(self) -> None:
        text = get_introspection_query(descriptions=True, input_value_deprecation=True)
        assert Guard(parse(text), LIMITS).check() is True

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("{ a: __schema { x } b: __type { x } __typename }", None),
            ("{ a: __schema { x } b: __schema { x } c: __schema { x } }", ("introspection fields", 3, 2)),
            ("{ ...F ...F ...F } fragment F on Query { __schema { x } }", ("introspection fields", 3, 2)),
            ("{ a __schema { x } }", ("other root fields beside introspection", 1, 0)),
            ("{ ...F a } fragment F on Query { ... { __schema { x } } }", ("other root fields beside introspection", 1, 0)),
        ],
    )
    def test_it_stands_alone(self, text: str, expected: tuple[str, int, int] | None) -> None:
        assert refused(text) == expected

    def test_it_is_seen_through_fragments(self) -> None:
        assert Guard(parse("{ ...F } fragment F on Query { ... { __schema { a } } }"), LIMITS).check() is True
        assert Guard(parse("{ __typename a }"), LIMITS).check() is False


class TestBombs:
    @pytest.mark.parametrize("levels", [16, 24, 60])
    def test_fragments_are_measured_once(self, levels: int) -> None:
        document = parse(bomb(levels))
        started = time.perf_counter()
        with pytest.raises(LimitExceeded) as caught:
            Guard(document, LIMITS).check()
        assert time.perf_counter() - started < 0.05
        assert (caught.value.limit, caught.value.had) == ("root fields", 2**levels)


class TestTexts:
    pytestmark = pytest.mark.anyio

    async def test_a_long_document_is_refused_before_it_is_parsed(self) -> None:
        answer = await Client(Shop().app()).post("{ hello } #" + "x" * 65_536)
        assert answer.extensions == {"code": "LIMIT_EXCEEDED", "limit": "document bytes", "had": 65_547, "allowed": 65_536}
        assert answer.status == 400

    async def test_bytes_are_counted_not_characters(self) -> None:
        answer = await Client(Shop(with_limits(document_bytes=100)).app()).post('{ hello(name: "' + "ä" * 50 + '") }')
        assert answer.extensions["had"] == 119

    @pytest.mark.parametrize(
        ("text", "had"),
        [
            ("{ " + "hello " * 1999 + "}", 2001),
            ("{ hello" + ' @a(b: "x y z", c: """ m "" n """, d: -1.5e3, e: [1, $x])' * 150 + "}", None),
            ('{ hello(name: "' + '\\"' * 20_000, 6),
            ('"""' * 1_001 + "x", None),
        ],
    )
    async def test_tokens_are_counted_before_they_are_parsed(self, text: str, had: int | None) -> None:
        started = time.perf_counter()
        answer = await Client(Shop().app()).post(text)
        assert time.perf_counter() - started < 0.3
        if had is not None and had > LIMITS.tokens:
            assert answer.extensions["had"] == had
        assert answer.code in {"LIMIT_EXCEEDED", "GRAPHQL_PARSE_FAILED"}

    async def test_commas_are_no_tokens_and_comments_are(self) -> None:
        client = Client(Shop().app())
        assert (await client.post("{ hello " + "# x\n" * 1000 + "," * 3000 + "}")).status == 200
        assert (await client.post("{ hello " + "# x\n" * 3000 + "}")).extensions["had"] == 3003
