from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.supervisor.first_key import FILE_NAME, FirstKeyNotWritten, write_first_key


class TestWriting:
    def test_only_the_owner_can_read_it_whatever_the_umask_is(self, tmp_path: Path) -> None:
        before = os.umask(0)
        try:
            path = write_first_key(tmp_path, "sk-secret")
        finally:
            os.umask(before)
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_text() == "sk-secret\n"

    def test_an_older_file_is_replaced_and_never_read_by_others(self, tmp_path: Path) -> None:
        (tmp_path / FILE_NAME).write_text("old", encoding="utf-8")
        (tmp_path / FILE_NAME).chmod(0o644)
        path = write_first_key(tmp_path, "sk-secret")
        assert (path.read_text(), path.stat().st_mode & 0o777) == ("sk-secret\n", 0o600)

    def test_a_link_in_its_place_is_not_followed(self, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.write_text("untouched", encoding="utf-8")
        (tmp_path / FILE_NAME).symlink_to(elsewhere)
        path = write_first_key(tmp_path, "sk-secret")
        assert elsewhere.read_text() == "untouched"
        assert not path.is_symlink()

    def test_a_directory_that_is_gone_is_named_with_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(FirstKeyNotWritten, match="keys create NAME --scope ADMIN"):
            write_first_key(tmp_path / "missing", "sk-secret")
