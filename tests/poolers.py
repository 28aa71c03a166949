"""PgBouncer in transaction mode before a PostgreSQL of a test, with the configuration that docs/postgresql.md shows."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from app.embedded.account import choose_account
from tests.processes import wait_until
from tests.redis_servers import free_ports
from tests.servers import ROOT

POOL_SIZE = 4


def documented_pooler(version: str) -> str:
    """The pgbouncer.ini of docs/postgresql.md for `version`."""
    text = (ROOT / "docs" / "postgresql.md").read_text(encoding="utf-8")
    found = re.search(rf"```ini\n(; PgBouncer {re.escape(version)}\n.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


@contextmanager
def start_pooler(folder: Path, *urls: str) -> Iterator[list[str]]:
    """The URLs through a pooler: `urls` are roles in one database. Skips the test if the system has no PgBouncer."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("the system has no PgBouncer: apt install pgbouncer")
    (port,) = free_ports(1)
    server = urlsplit(urls[0])
    changes = {
        "greenlang": f"host={server.hostname} port={server.port} dbname={server.path.lstrip('/')}",
        "listen_addr": "127.0.0.1",
        "listen_port": str(port),
        "auth_file": str(folder / "userlist.txt"),
        "default_pool_size": str(POOL_SIZE),
        "reserve_pool_size": "0",
    }
    text = documented_pooler("1.18")
    for name, value in changes.items():
        text, changed = re.subn(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
        assert changed == 1, name
    (folder / "pgbouncer.ini").write_text(f"{text}unix_socket_dir =\n", encoding="utf-8")
    users = [f'"{each.username}" "{each.password}"\n' for each in map(urlsplit, urls)]
    (folder / "userlist.txt").write_text("".join(users), encoding="utf-8")
    account = choose_account(folder, Path(program))
    with (folder / "pgbouncer.out").open("wb") as out:
        process = subprocess.Popen([*account.prefix, program, folder / "pgbouncer.ini"], stdout=out, stderr=out)
    try:
        said = folder / "pgbouncer.out"
        wait_until(lambda: "process up" in said.read_text() or process.poll() is not None)
        assert process.poll() is None, said.read_text()
        yield [f"postgresql://{each.username}:{each.password}@127.0.0.1:{port}/greenlang" for each in map(urlsplit, urls)]
    finally:
        process.terminate()
        process.wait(20)
