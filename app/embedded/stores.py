"""The private stores of a data directory, for the process that needs them: launch, wait, use the addresses, stop.

The stores live exactly as long as the process that launched them. It holds a pipe, and their supervisor stops them when the
pipe ends. Each of their processes holds a lock on the data directory, so two sets never run on the same files. What a killed
launcher left is waited for or ended.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.domain.errors import GreenLangError
from app.embedded.account import choose_account
from app.embedded.addresses import CACHE_URL, CHROMA_URL, DATABASE_URL, OWNER_URL, REDIS_URL
from app.embedded.chroma import CHROMA_FOLDER, PROGRAM, require_chroma
from app.embedded.postgres import CLUSTER
from app.embedded.roles import set_up_again
from app.embedded.valkey import CACHE_FOLDER, COORDINATION_FOLDER
from app.secrets.reference import SecretReference
from app.settings import Settings

_SOURCE = Path(__file__).resolve().parents[2]
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR")
_STORE_NAMES = frozenset({"postgres", "valkey-server", "redis-server"})
_LEAVE_SECONDS = 20.0
_STOP_SECONDS = 60.0


class StoresFailed(GreenLangError):
    """The private stores do not start. The message says which one and why."""


@dataclass(frozen=True, slots=True)
class StoreAddresses:
    """Files with the URLs of a data directory's stores: for the serving role, for the migrating role, for Redis, for the
    Redis of the cache, and for Chroma."""

    data_dir: Path

    @property
    def database(self) -> SecretReference:
        return SecretReference(file=self.data_dir / DATABASE_URL)

    @property
    def owner(self) -> SecretReference:
        return SecretReference(file=self.data_dir / OWNER_URL)

    @property
    def redis(self) -> SecretReference:
        return SecretReference(file=self.data_dir / REDIS_URL)

    @property
    def cache(self) -> SecretReference:
        return SecretReference(file=self.data_dir / CACHE_URL)

    @property
    def chroma(self) -> SecretReference:
        return SecretReference(file=self.data_dir / CHROMA_URL)

    @property
    def has_cache(self) -> bool:
        return (self.data_dir / CACHE_URL).is_file()


@dataclass(frozen=True, slots=True)
class PrivateStores(StoreAddresses):
    """Create it with `launch`."""

    store_supervisor: subprocess.Popen[str]

    @classmethod
    def launch(
        cls,
        data_dir: Path,
        *,
        postgres: bool = True,
        valkey: bool = True,
        cache_bytes: int | None = None,
        chroma: bool = False,
        volatile: bool = False,
    ) -> PrivateStores:
        """Returns while the stores start. With `cache_bytes`, a second Valkey runs, for the cache, which holds at most so much.
        The caller owns the data directory. Processes of a killed owner that still run in it are ended.

        Raises SettingsError if no account can run the stores or Chroma is not installed, and StoresFailed if an old process does
        not end.
        """
        if chroma:
            require_chroma()
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        data_dir = data_dir.resolve()
        lock = os.open(data_dir / "stores.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _take(lock, data_dir)
            account = choose_account(data_dir, Path(sys.executable))
            data_dir.chmod(0o700)
            wanted = [
                *(["--postgres"] if postgres else []),
                *(["--valkey"] if valkey else []),
                *(["--cache-bytes", str(cache_bytes)] if cache_bytes is not None else []),
                *(["--chroma"] if chroma else []),
                *(["--volatile"] if volatile else []),
            ]
            program = [sys.executable, "-m", "app.embedded.store_supervisor", "--data-dir", str(data_dir), "--lock", str(lock)]
            environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            store_supervisor = subprocess.Popen(  # noqa: S603 - our own module
                [*account.prefix, *program, *wanted],
                cwd=data_dir,
                env=environment | {"PYTHONPATH": str(_SOURCE), "PYTHONDONTWRITEBYTECODE": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                pass_fds=(lock,),
                start_new_session=True,
            )
        finally:
            os.close(lock)
        return cls(data_dir, store_supervisor)

    def wait(self) -> None:
        """Returns when the stores answer. Raises StoresFailed."""
        assert self.store_supervisor.stdout is not None
        said = self.store_supervisor.stdout.readline().strip()
        if said != "ready":
            self.stop()
            raise StoresFailed(said.removeprefix("failed: ") or "the private stores' supervisor ended at once")

    def set_up_roles_again(self) -> None:
        """At the next start the roles are set up again. For a database that cannot be used with its present roles."""
        set_up_again(self.data_dir / CLUSTER)

    def stop(self) -> None:
        """Stops the stores in order. Returns when none of their processes is left."""
        self.close_pipes()
        try:
            self.store_supervisor.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.store_supervisor.kill()
            self.store_supervisor.wait()

    def close_pipes(self) -> None:
        """Closes this process's ends of the pipes. A forked child does it first; otherwise the stores would outlive the
        launcher."""
        for pipe in (self.store_supervisor.stdin, self.store_supervisor.stdout):
            if pipe is not None:
                pipe.close()


def has_private_store(settings: Settings) -> bool:
    """Whether PostgreSQL or the Redis of streams runs in the data directory itself. Then no other machine shares its content. The
    Redis of the cache does not count: each machine may have one of its own beside shared stores."""
    folder = settings.server.data_dir.resolve()
    named = ((settings.database.primary, DATABASE_URL), (settings.redis.url, REDIS_URL))
    return any(reference is not None and reference.file == folder / name for reference, name in named)


def _take(lock: int, data_dir: Path) -> None:
    """Waits until the processes of a killed launcher end by themselves, then ends them."""
    begun = time.monotonic()
    for sign, until in ((None, 3.0), (signal.SIGINT, _LEAVE_SECONDS), (signal.SIGKILL, _LEAVE_SECONDS + 5)):
        if sign is not None:
            _signal_stores(data_dir, sign)
        while time.monotonic() - begun < until:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.02)
            else:
                return
    raise StoresFailed(f"another process still holds {data_dir / 'stores.lock'}")


def _signal_stores(data_dir: Path, sign: signal.Signals) -> None:
    valkeys = (data_dir / folder / "valkey.pid" for folder in (COORDINATION_FOLDER, CACHE_FOLDER))
    for file in (data_dir / "postgres" / "postmaster.pid", *valkeys, data_dir / CHROMA_FOLDER / "chroma.pid"):
        with suppress(OSError, ValueError, IndexError):
            pid = int(file.read_text(encoding="utf-8").split()[0])
            if _is_store(Path(f"/proc/{pid}")):
                os.kill(pid, sign)


def _is_store(process: Path) -> bool:
    """Chroma runs in a Python process."""
    name = (process / "comm").read_text(encoding="utf-8").strip()
    return name in _STORE_NAMES or PROGRAM.encode() in (process / "cmdline").read_bytes()
