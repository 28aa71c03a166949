"""What a start prints, and where the first key goes."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from app.cli.serve import announce
from app.settings import Settings
from app.supervisor.first_key import FILE_NAME
from app.supervisor.serve import Started

SECRET = "sk-abcdefghijkl-" + "x" * 32


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def printed(data_dir: Path, first_key: str | None, output: StringIO) -> str:
    with redirect_stdout(output):
        announce(Started("http://127.0.0.1:8400", data_dir, Settings(), first_key))
    return output.getvalue()


class TestFirstKey:
    def test_goes_to_a_terminal(self, tmp_path: Path) -> None:
        assert SECRET in printed(tmp_path, SECRET, Terminal())
        assert list(tmp_path.iterdir()) == []

    def test_goes_to_a_file_of_its_owner_if_there_is_no_terminal(self, tmp_path: Path) -> None:
        text = printed(tmp_path, SECRET, StringIO())
        kept = tmp_path / FILE_NAME
        assert SECRET not in text
        assert str(kept) in text
        assert kept.read_text() == f"{SECRET}\n"
        assert list(tmp_path.iterdir()) == [kept]

    @pytest.mark.parametrize("output", [Terminal(), StringIO()], ids=["terminal", "pipe"])
    def test_is_named_at_a_later_start_by_its_file_alone(self, tmp_path: Path, output: StringIO) -> None:
        printed(tmp_path, SECRET, StringIO())
        text = printed(tmp_path, None, output)
        assert str(tmp_path / FILE_NAME) in text
        assert SECRET not in text

    def test_was_shown_if_there_is_no_file(self, tmp_path: Path) -> None:
        assert "was shown at the first start" in printed(tmp_path, None, StringIO())

    def test_the_data_directory_is_the_last_line(self, tmp_path: Path) -> None:
        assert printed(tmp_path, SECRET, StringIO()).splitlines()[-1] == f"  data        {tmp_path}"
