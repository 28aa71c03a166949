from __future__ import annotations

import ast
import inspect
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access import credentials
from app.access.credentials import hash_secret, hint_of, matches, new_secret


class TestNewSecrets:
    def test_begin_with_sk_and_their_hint(self) -> None:
        hint, secret = new_secret()
        assert secret.startswith(f"sk-{hint}-")
        assert hint_of(secret) == hint

    def test_have_160_random_bits_and_more_behind_the_hint(self) -> None:
        _, secret = new_secret()
        assert len(secret.rpartition("-")[2]) * math.log2(62) >= 160

    def test_are_never_alike(self) -> None:
        made = [new_secret() for _ in range(1000)]
        assert len({hint for hint, _ in made}) == len({secret for _, secret in made}) == 1000


class TestText:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "sk-",
            "sk-abc",
            "Bearer x",
            f"sk-abcdefghijkl-{'a' * 31}",
            f"sk-abcdefghijkl-{'a' * 33}",
            f"sk-ABCDEFGHIJKL-{'a' * 32}",
            f"sk-abcdefghijkl-{'a' * 32}\n",
            f" sk-abcdefghijkl-{'a' * 32}",
            f"sk-abcdefghijkl-{'a' * 31}ä",
        ],
    )
    def test_of_another_shape_is_no_key(self, text: str) -> None:
        assert hint_of(text) is None

    @given(st.text())
    def test_of_any_kind_is_looked_at_without_error(self, text: str) -> None:
        assert hint_of(text) is None or text.startswith("sk-")


class TestComparison:
    def test_only_the_whole_secret_matches(self) -> None:
        _, secret = new_secret()
        assert matches(hash_secret(secret), hash_secret(secret))
        assert not matches(hash_secret(secret[:-1] + ("a" if secret[-1] != "a" else "b")), hash_secret(secret))
        assert not matches(hash_secret(""), hash_secret(secret))

    def test_nothing_matches_no_hash(self) -> None:
        assert not matches(hash_secret(new_secret()[1]), None)

    def test_takes_the_same_time_wherever_they_differ(self) -> None:
        """Timing is not measured: the comparison is the standard library's for secrets, and there is no other."""
        tree = ast.parse(inspect.getsource(matches))
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert "hmac.compare_digest" in called
        assert not any(isinstance(node, ast.Compare) for node in ast.walk(tree))

    def test_the_hash_is_of_a_fixed_length_and_not_the_secret(self) -> None:
        _, secret = new_secret()
        assert len(hash_secret(secret)) == 32
        assert credentials.hash_secret(secret) == hash_secret(secret) != secret.encode()
