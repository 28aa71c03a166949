"""The private PostgreSQL: its own cluster in the data directory, TCP on loopback only, a password for every role."""

from __future__ import annotations

import secrets
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from app.embedded.addresses import DATABASE_URL, HOST, OWNER_URL, keep_address, keep_password, read_address
from app.embedded.binaries import PostgresBinaries
from app.embedded.child import Child, StoreFailed, start_child
from app.embedded.roles import Passwords, set_up_roles

_BUILTIN_LOCALE_SINCE = 17
CLUSTER = "postgres"
STATISTICS = "pg_stat_statements"
_START_SECONDS = 60.0
_PM_STATUS_LINE = 7
_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "300",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_error_verbosity": "terse",
}
_VOLATILE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def made_by_major(data_dir: Path) -> int | None:
    """The major version that made the cluster; None if there is no cluster."""
    version = data_dir / CLUSTER / "PG_VERSION"
    return int(version.read_text(encoding="utf-8")) if version.is_file() else None


@dataclass(frozen=True, slots=True)
class Postgres:
    """`volatile` trades durability for speed. Only tests use it."""

    binaries: PostgresBinaries
    data_dir: Path
    volatile: bool = False

    @property
    def name(self) -> str:
        return "PostgreSQL"

    @property
    def cluster(self) -> Path:
        return self.data_dir / CLUSTER

    @property
    def url_file(self) -> Path:
        return self.data_dir / DATABASE_URL

    def prepare(self, lock: int) -> None:
        """Makes the cluster and its roles if there is none, and removes what an earlier run left. Call it only while no server
        runs on the cluster: the process id in its `postmaster.pid` may now belong to another program."""
        if not self.cluster.is_dir():
            self._make_cluster(lock)
        self._check_version()
        (self.cluster / "postmaster.pid").unlink(missing_ok=True)
        service = keep_address(self.url_file)
        owner = keep_password(self.data_dir / OWNER_URL, service.port)
        passwords = Passwords(owner.password, service.password)
        extensions = [STATISTICS] if self.binaries.has(STATISTICS) else []
        program = self.binaries.bin / "postgres"
        set_up_roles(program, self.cluster, passwords, extensions=extensions, volatile=self.volatile, lock=lock)

    def _make_cluster(self, lock: int) -> None:
        unfinished = self.data_dir / "postgres.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        newer = self.binaries.major >= _BUILTIN_LOCALE_SINCE
        locale = ("--locale-provider=builtin", "--locale=C.UTF-8") if newer else ("--no-locale",)
        command: list[str | Path] = [self.binaries.bin / "initdb", "-D", unfinished, "-U", "greenlang", "--pwfile=/dev/stdin"]
        options = ["--auth=scram-sha-256", "-E", "UTF8", *locale, *(["--no-sync"] if self.volatile else [])]
        made = subprocess.run(  # noqa: S603 - a program that this package found
            [*command, *options],
            input=secrets.token_urlsafe() + "\n",
            text=True,
            capture_output=True,
            check=False,
            pass_fds=(lock,),
        )
        if made.returncode != 0:
            raise StoreFailed(f"initdb: {made.stderr.strip() or made.stdout.strip()}")
        unfinished.rename(self.cluster)

    def start(self, lock: int) -> Child:
        """Starts a server and returns when it answers. Raises StoreFailed."""
        settings = _SETTINGS | (_VOLATILE if self.volatile else {}) | {"port": str(read_address(self.url_file).port)}
        if self.binaries.has(STATISTICS):
            settings |= {"shared_preload_libraries": STATISTICS, "track_activity_query_size": "4096"}
        command: list[str | Path] = [self.binaries.bin / "postgres", "-D", self.cluster]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        child = start_child(command, self.cluster, self.data_dir / "log" / "postgres.log", signal.SIGINT, lock)
        child.wait_until(lambda: self._is_ready(child), _START_SECONDS)
        return child

    def _is_ready(self, child: Child) -> bool:
        try:
            lines = (self.cluster / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > _PM_STATUS_LINE and lines[0] == str(child.process.pid) and lines[_PM_STATUS_LINE].strip() == "ready"

    def _check_version(self) -> None:
        made_by = made_by_major(self.data_dir)
        if made_by != self.binaries.major:
            raise StoreFailed(
                f"{self.cluster} was made by PostgreSQL {made_by}, and this machine has PostgreSQL {self.binaries.major}; "
                f"install PostgreSQL {made_by} again, move the data with pg_dump, or choose another --data-dir"
            )
