"""The system's PostgreSQL with TLS: the embedded one has none."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.embedded.account import choose_account
from tests.certificates import TlsFiles
from tests.processes import wait_until
from tests.redis_servers import free_ports

_PASSWORD = "of/the?owner"


@contextmanager
def start_tls_postgres(folder: Path, tls: TlsFiles, *, client_certificates: bool = False) -> Iterator[str]:
    """Its URL without parameters, `postgresql://owner:…@127.0.0.1:…/postgres`. It answers over TLS alone. Skips the test if the
    system has no PostgreSQL with TLS."""
    found = sorted(Path("/usr/lib/postgresql").glob("[0-9]*/bin/postgres"))
    if not found:
        pytest.skip("the system has no PostgreSQL: apt install postgresql")
    programs = found[-1].parent
    (port,) = free_ports(1)
    data = folder / "tls_postgres"
    data.mkdir()
    account = choose_account(data, found[-1])
    cluster = data / "cluster"
    subprocess.run(
        [*account.prefix, programs / "initdb", "-D", cluster, "-U", "owner", "--pwfile=/dev/stdin", "-A", "scram-sha-256", "-N"],
        input=_PASSWORD + "\n",
        text=True,
        capture_output=True,
        check=True,
    )
    tls.key.chmod(0o600)
    verified = " clientcert=verify-ca" if client_certificates else ""
    (cluster / "pg_hba.conf").write_text(f"hostssl all all 127.0.0.1/32 scram-sha-256{verified}\n", encoding="utf-8")
    settings = {
        "port": str(port),
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",
        "ssl": "on",
        "ssl_cert_file": str(tls.certificate),
        "ssl_key_file": str(tls.key),
        "ssl_ca_file": str(tls.authority),
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with (data / "log").open("wb") as log:
        process = subprocess.Popen([*account.prefix, found[-1], "-D", cluster, *options], stdout=log, stderr=log)
    try:
        wait_until(lambda: re.search("ready to accept", (data / "log").read_text()) is not None or process.poll() is not None)
        assert process.poll() is None, (data / "log").read_text()
        yield f"postgresql://owner:{_PASSWORD}@127.0.0.1:{port}/postgres"
    finally:
        process.terminate()
        process.wait(20)
