"""The account that the private stores run as.

PostgreSQL refuses root. So root first changes to another account: inside a user namespace, where files still belong to root;
else as the owner of the data directory or of its parent directory; else as the system's unprivileged account (65534).
PostgreSQL also refuses an account without a name, which a container may have. A user namespace then gives it a name.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.domain.errors import SettingsError

NO_HOLDER = 65534
_NAMESPACE = ("unshare", "--user", f"--map-user={NO_HOLDER}", f"--map-group={NO_HOLDER}", "--")


@dataclass(frozen=True, slots=True)
class Account:
    """`prefix` is put before a command. `uid` and `gid` own the files of the stores, as the system sees them."""

    prefix: tuple[str, ...]
    uid: int
    gid: int


def choose_account(data_dir: Path, program: Path) -> Account:
    """Returns the first account that can reach `data_dir` and run `program`, and makes it the owner of `data_dir`. Raises
    SettingsError if there is none."""
    if os.geteuid() != 0:
        return _named((), os.geteuid(), os.getegid())
    for account in _candidates(data_dir):
        if _can_work(account, data_dir, program):
            _hand_over(data_dir, account)
            return account
    raise SettingsError(
        "database.primary",
        "PostgreSQL may not run as root, and neither user namespaces nor another account can work in "
        f"{data_dir}; start as an ordinary user, choose another --data-dir, or name a server: GREENLANG_DATABASE__PRIMARY",
    )


def _candidates(data_dir: Path) -> Iterator[Account]:
    owner, folder = data_dir.stat(), data_dir.parent.stat()
    if owner.st_uid != 0:
        yield _switched(owner.st_uid, owner.st_gid)
    yield Account(_NAMESPACE, 0, 0)
    if folder.st_uid != 0:
        yield _switched(folder.st_uid, folder.st_gid)
    yield _switched(NO_HOLDER, NO_HOLDER)


def _switched(uid: int, gid: int) -> Account:
    return _named(("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--"), uid, gid)


def _named(prefix: tuple[str, ...], uid: int, gid: int) -> Account:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return Account((*prefix, *_NAMESPACE), uid, gid)
    return Account(prefix, uid, gid)


def _hand_over(data_dir: Path, account: Account) -> None:
    if data_dir.stat().st_uid == account.uid and all(path.lstat().st_uid == account.uid for path in data_dir.iterdir()):
        return
    for path in (data_dir, *data_dir.rglob("*")):
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def _can_work(account: Account, data_dir: Path, program: Path) -> bool:
    probe = ("/bin/sh", "-c", 'cd "$1" && test -x "$2"', "sh", str(data_dir.parent), str(program))
    try:
        probed = subprocess.run([*account.prefix, *probe], capture_output=True, timeout=10, check=False)  # noqa: S603 - built above
    except (OSError, subprocess.TimeoutExpired):
        return False
    return probed.returncode == 0
