"""The search for words in files finds what it is there to find."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.file_search import files_with

WORD = "Zwiebelkönigin"


class TestWordInAFile:
    @pytest.mark.parametrize(
        "write",
        [
            pytest.param(lambda text: text.encode(), id="text"),
            pytest.param(lambda text: text.encode("utf-16"), id="utf-16"),
            pytest.param(lambda text: json.dumps({"text": text}).encode(), id="json"),
            pytest.param(lambda text: json.dumps(json.dumps({"text": text})).encode(), id="json in json"),
            pytest.param(lambda text: base64.b64encode(text.encode()), id="base64"),
            pytest.param(lambda text: base64.urlsafe_b64encode(text.encode()), id="base64 for URLs"),
            pytest.param(lambda text: text.encode().hex().encode(), id="hexadecimal"),
        ],
    )
    @pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
    def test_is_found_however_it_is_spelled(self, tmp_path: Path, write: Callable[[str], bytes], before: str) -> None:
        (tmp_path / "deep").mkdir()
        (tmp_path / "deep" / "file").write_bytes(bytes(range(256)) + write(f"{before}{WORD}?>~"))
        assert files_with(tmp_path, [WORD, "Nachtigall"]) == {WORD: [tmp_path / "deep" / "file"]}
