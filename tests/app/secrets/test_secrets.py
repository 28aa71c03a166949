from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.domain.errors import SettingsError
from app.secret_stores.values import SecretValues
from app.secrets.reference import SecretReference
from app.secrets.sealing import Sealer, UnsealError, build_sealer

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))


class TestReference:
    def test_to_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KEY", " hidden\n")
        assert SecretReference(env="KEY").reveal() == "hidden"

    def test_to_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "key").write_text("hidden\n")
        assert SecretReference(file=tmp_path / "key").reveal() == "hidden"

    @pytest.mark.parametrize("raw", [b"\xef\xbb\xbfhidden\r\n", b" \xef\xbb\xbf hidden", b"hidden\n\n"])
    def test_has_no_blanks_or_byte_order_mark_around_it(self, tmp_path: Path, raw: bytes) -> None:
        (tmp_path / "key").write_bytes(raw)
        assert SecretReference(file=tmp_path / "key").reveal() == "hidden"

    def test_it_shows_where_and_never_what(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KEY", "hidden")
        reference = SecretReference(env="KEY")
        reference.reveal()
        assert "hidden" not in repr(reference) + str(reference) + reference.model_dump_json()

    @pytest.mark.parametrize("value", [{}, {"env": ""}, {"env": "A", "file": "b"}, "hidden", {"value": "hidden"}])
    def test_anything_else_is_refused_unseen(self, value: object) -> None:
        with pytest.raises(ValidationError) as caught:
            SecretReference.model_validate(value)
        assert "hidden" not in str(caught.value)

    def test_nothing_there_is_a_settings_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KEY", " ")
        (tmp_path / "empty").touch()
        (tmp_path / "binary").write_bytes(b"\xff")
        for reference, problem in (
            (SecretReference(env="KEY"), "env KEY: is not set"),
            (SecretReference(file=tmp_path / "absent"), "No such file"),
            (SecretReference(file=tmp_path / "empty"), "is empty"),
            (SecretReference(file=tmp_path / "binary"), "is not UTF-8 text"),
        ):
            with pytest.raises(SettingsError, match=problem):
                reference.reveal()


class TestSealing:
    @given(st.binary(), st.binary())
    def test_what_was_sealed_comes_back(self, content: bytes, context: bytes) -> None:
        for sealer in (Sealer([KEY]), Sealer()):
            assert sealer.unseal(sealer.seal(content, context), context) == content

    def test_the_content_is_not_in_the_seal_and_no_two_are_alike(self) -> None:
        sealer = Sealer([KEY])
        seals = {sealer.seal(b"the same words", b"acme") for _ in range(100)}
        assert len(seals) == 100
        assert not any(b"the same words" in seal for seal in seals)

    def test_another_context_opens_nothing(self) -> None:
        sealer = Sealer([KEY])
        with pytest.raises(UnsealError):
            sealer.unseal(sealer.seal(b"words", b"acme"), b"globex")

    @given(st.integers(0, 10_000), st.integers(1, 255))
    def test_a_changed_byte_opens_nothing(self, where: int, by: int) -> None:
        sealer = Sealer([KEY])
        sealed = bytearray(sealer.seal(b"words", b"acme"))
        place = 1 + where % (len(sealed) - 1)
        sealed[place] ^= by
        with pytest.raises(UnsealError):
            sealer.unseal(bytes(sealed), b"acme")

    @given(st.integers(0, 50))
    def test_a_piece_opens_nothing(self, length: int) -> None:
        sealer = Sealer([KEY])
        sealed = sealer.seal(b"words", b"acme")
        with pytest.raises(UnsealError):
            sealer.unseal(sealed[: min(length, len(sealed) - 1)], b"acme")


class TestChangeOfKeys:
    def test_the_earlier_key_still_opens_and_the_new_one_seals(self) -> None:
        before, after = Sealer([KEY]), Sealer([OTHER, KEY])
        assert after.unseal(before.seal(b"words", b"acme"), b"acme") == b"words"
        assert Sealer([OTHER]).unseal(after.seal(b"words", b"acme"), b"acme") == b"words"

    def test_a_key_that_is_gone_opens_nothing(self) -> None:
        with pytest.raises(UnsealError):
            Sealer([OTHER]).unseal(Sealer([KEY]).seal(b"words", b"acme"), b"acme")
        with pytest.raises(UnsealError):
            Sealer().unseal(Sealer([KEY]).seal(b"words", b"acme"), b"acme")

    def test_what_was_kept_before_there_was_a_key_can_be_read(self) -> None:
        assert Sealer([KEY]).unseal(Sealer().seal(b"words", b"acme"), b"acme") == b"words"

    def test_a_secret_that_changes_opens_at_once_and_seals_after_the_second_step(self, tmp_path: Path) -> None:
        file = tmp_path / "key"
        file.write_text(KEY.hex())
        reference = SecretReference(file=file)
        reference.bind(values := SecretValues())
        sealer = build_sealer([reference])
        before = sealer.seal(b"words", b"acme")
        (seal_with_it,) = values.announce(reference, OTHER.hex())
        assert sealer.unseal(Sealer([OTHER]).seal(b"words", b"acme"), b"acme") == b"words"
        assert Sealer([KEY]).unseal(sealer.seal(b"words", b"acme"), b"acme") == b"words"
        seal_with_it()
        assert Sealer([OTHER]).unseal(sealer.seal(b"words", b"acme"), b"acme") == b"words"
        assert sealer.unseal(before, b"acme") == b"words"
        with pytest.raises(SettingsError):
            values.announce(reference, "no key")


class TestKeys:
    @pytest.mark.parametrize("text", [base64.b64encode(KEY).decode(), KEY.hex(), KEY.hex().upper()])
    def test_in_base64_or_hexadecimal(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KEY", text)
        sealed = build_sealer([SecretReference(env="KEY")]).seal(b"words", b"acme")
        assert Sealer([KEY]).unseal(sealed, b"acme") == b"words"

    @pytest.mark.parametrize("text", ["hidden", base64.b64encode(KEY[:16]).decode(), KEY.hex() + "00", "ключ"])
    def test_any_other_is_refused_unseen(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KEY", text)
        with pytest.raises(SettingsError, match="env KEY: is not a key: it must be 32 random bytes") as caught:
            build_sealer([SecretReference(env="KEY")])
        assert text not in str(caught.value)
