from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from io import StringIO

import pytest

from app.telemetry.logging import MAX_LINES_A_MINUTE, OURS, BoundedLines, JsonFormatter, TextFormatter, configure_logging


def record(at: float, line: int = 1, message: str = "a bad request") -> logging.LogRecord:
    made = logging.LogRecord("server", logging.WARNING, "server.py", line, message, (), None)
    made.created = at
    return made


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    before, levels = root.handlers[:], [(each, each.level) for each in (root, *map(logging.getLogger, OURS))]
    yield root
    root.handlers[:] = before
    for each, level in levels:
        each.setLevel(level)


class TestFloods:
    def test_only_so_many_lines_of_a_place_pass_in_a_minute(self) -> None:
        bounded = BoundedLines(lines=3)
        passed = [each for each in (record(100 + number / 1000) for number in range(10_000)) if bounded.filter(each)]
        assert len(passed) == 3
        assert ["more" in each.__dict__ for each in passed] == [False, False, True]

    def test_the_next_minute_says_how_many_were_left_out(self) -> None:
        bounded = BoundedLines(lines=3)
        for number in range(10):
            bounded.filter(record(100 + number))
        after = record(160)
        assert bounded.filter(after)
        assert after.__dict__["left_out"] == 7

    def test_other_places_are_not_concerned(self) -> None:
        bounded = BoundedLines(lines=1)
        assert [bounded.filter(record(100, line)) for line in (1, 1, 2)] == [True, False, True]

    def test_a_clock_that_is_set_back_silences_nothing(self) -> None:
        bounded = BoundedLines(lines=1)
        assert [bounded.filter(record(at)) for at in (10_000, 10_001, 100)] == [True, False, True]

    def test_a_minute_within_the_bound_says_nothing_of_it(self) -> None:
        bounded = BoundedLines(lines=2)
        seen = [record(at) for at in (100, 200, 300)]
        assert all(bounded.filter(each) for each in seen)
        assert not any({"more", "left_out"} & each.__dict__.keys() for each in seen)

    def test_the_logs_of_a_server_are_bounded(self, root_logger: logging.Logger) -> None:
        configure_logging("info")
        (handler,) = root_logger.handlers
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(written := StringIO())
        for _ in range(10 * MAX_LINES_A_MINUTE):
            logging.getLogger("uvicorn.error").error("Invalid HTTP request received.")
        lines = [json.loads(line) for line in written.getvalue().splitlines()]
        assert len(lines) == MAX_LINES_A_MINUTE
        assert "left out" in lines[-1]["more"]


class TestLines:
    def test_hold_one_json_object_whatever_the_message_is(self) -> None:
        text = JsonFormatter().format(record(0, message='a\n{"level": "error"}\r\n\u2028'))
        assert text.count("\n") == 0
        assert json.loads(text)["message"].startswith("a\n{")


@pytest.mark.usefixtures("root_logger")
class TestLevel:
    def test_is_ours_alone_since_libraries_log_whole_requests_at_a_low_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        configure_logging("debug")
        logging.getLogger("app.gateway.gateway").debug("ours")
        for library in ("websockets.server", "uvicorn.error", "aiohttp.client", "sqlalchemy.engine"):
            logging.getLogger(library).info("a prompt")
            logging.getLogger(library).warning("it warns")
        said = capsys.readouterr().err
        assert said.count("ours") == 1
        assert said.count("it warns") == 4
        assert "a prompt" not in said

    def test_quietens_libraries_too(self, capsys: pytest.CaptureFixture[str]) -> None:
        configure_logging("error")
        for name in ("app.gateway.gateway", "uvicorn.error"):
            logging.getLogger(name).warning("it warns")
            logging.getLogger(name).error("it fails")
        said = capsys.readouterr().err
        assert "it warns" not in said
        assert said.count("it fails") == 2


class TestForms:
    def test_text_has_one_line_whatever_is_in_it(self) -> None:
        line = TextFormatter().format(logging.makeLogRecord({"msg": "a\nb", "levelname": "INFO", "path": "/x\n\x00\ud800"}))
        assert line.endswith('info    a\\nb  path="/x\\n\\u0000\\ud800"')

    def test_is_json_if_standard_error_is_no_terminal(self, root_logger: logging.Logger) -> None:
        configure_logging("info", "auto")
        (handler,) = root_logger.handlers
        assert isinstance(handler.formatter, JsonFormatter)

    def test_is_text_if_asked_for(self, root_logger: logging.Logger) -> None:
        configure_logging("info", "text")
        (handler,) = root_logger.handlers
        assert isinstance(handler.formatter, TextFormatter)
