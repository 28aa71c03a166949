from __future__ import annotations

from pathlib import Path

from app.secret_stores.reader import SecretFault, SecretReader
from app.secrets.reference import SecretReference, SecretSource
from app.settings import VaultAuth, VaultSettings


def test_a_file_of_authorities_that_is_gone_is_named(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a-token", encoding="utf-8")
    login = SecretReference(file=token)
    settings = VaultSettings(address="https://127.0.0.1:9", auth=VaultAuth.TOKEN, token=login, ca_file=tmp_path / "gone.pem")
    found = SecretReader({SecretSource.VAULT: settings}).read([SecretReference(vault="a#b")])["vault a#b"]
    assert isinstance(found, SecretFault)
    assert str(found) == "the file secrets.vault.ca_file cannot be read"
