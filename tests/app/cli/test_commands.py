"""`greenlang` as typed into a shell: what it prints and how it exits."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.runtime.clock import SystemClock
from app.supervisor.ownership import owned

ROOT = Path(__file__).parents[3]


def run(*words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("GREENLANG_", "ANTHROPIC_", "OPENAI_"))}
    environment = plain | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *words],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        timeout=90,
        check=False,
    )


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


class TestCommandLine:
    @pytest.mark.parametrize("words", [(), ("fly",), ("serve", "--port", "high"), ("keys",), ("keys", "create")])
    def test_what_is_no_command_is_shown_how_to_write_one(self, words: tuple[str, ...]) -> None:
        done = run(*words)
        assert (done.returncode, "usage: greenlang" in done.stderr) == (2, True)

    def test_help_names_every_command(self) -> None:
        assert all(
            name in run("--help").stdout
            for name in ("serve", "migrate", "keys", "exports", "ingest", "doctor", "health", "simulate")
        )


class TestConfiguration:
    def test_an_unknown_key_is_named_with_its_file(self, tmp_path: Path) -> None:
        (tmp_path / "wrong.toml").write_text("[server]\nprot = 1\n", encoding="utf-8")
        done = run("serve", "--config", tmp_path / "wrong.toml")
        assert (done.returncode, "server.prot" in done.stderr, "wrong.toml" in done.stderr) == (2, True, True)

    def test_a_file_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        done = run("serve", "--config", tmp_path / "missing.toml")
        assert (done.returncode, "missing.toml" in done.stderr) == (2, True)

    def test_the_environment_is_checked_too(self, data_dir: Path) -> None:
        done = run("migrate", "--data-dir", data_dir, GREENLANG_SERVER__PORT="0x")
        assert (done.returncode, "GREENLANG_SERVER__PORT" in done.stderr) == (2, True)


class TestDatabaseUrl:
    @pytest.mark.parametrize("command", ["serve", "migrate", "doctor"])
    def test_an_unknown_parameter_or_an_empty_host_is_named_before_anything_starts(self, command: str, data_dir: Path) -> None:
        unknown = run(command, "--data-dir", data_dir, GREENLANG_DATABASE__PRIMARY="postgresql://me:hidden@a/db?sslmod=require")
        wrong = "postgresql://me:hidden@a,/db"
        empty = run(
            command, "--data-dir", data_dir, GREENLANG_DATABASE__PRIMARY="postgresql://a/db", GREENLANG_DATABASE__REPLICAS=wrong
        )
        code = 1 if command == "doctor" else 2
        for done, problem in ((unknown, "database.primary: "), (empty, "database.replicas[0]: ")):
            said = done.stdout + done.stderr
            assert (done.returncode, problem in said, "hidden" in said) == (code, True, False)
        assert "unknown parameter sslmod" in unknown.stdout + unknown.stderr
        assert "host 2 is empty" in empty.stdout + empty.stderr


class TestServe:
    def test_a_key_that_is_not_there_is_named_before_anything_starts(self, data_dir: Path, tmp_path: Path) -> None:
        provider = '[[providers]]\nname = "mine"\nkind = "anthropic"\napi_keys = [{ env = "NOT_SET" }]\n'
        (tmp_path / "keys.toml").write_text(provider, encoding="utf-8")
        done = run("serve", "--data-dir", data_dir, "--config", tmp_path / "keys.toml")
        assert (done.returncode, "providers[0].api_keys[0]: env NOT_SET" in done.stderr) == (2, True)
        assert not data_dir.exists()

    def test_a_data_directory_in_use_is_named_with_its_owner(self, data_dir: Path) -> None:
        with owned(data_dir, SystemClock()):
            done = run("serve", "--data-dir", data_dir)
        assert done.returncode == 1
        assert re.search(rf"already runs on the data directory .*: process {os.getpid()}\b", done.stderr)


@pytest.mark.drill
class TestKeys:
    def test_a_key_is_made_listed_and_revoked(self, data_dir: Path) -> None:
        made = run(
            "keys", "create", "alice", "--tenant", "acme", "--scope", "costs", "--scope", "BUDGETS", "--data-dir", data_dir
        )
        assert re.fullmatch(r"sk-\S+\n", made.stdout)
        assert made.stdout.strip() not in made.stderr

        again = run("keys", "create", "alice", "--tenant", "acme", "--scope", "COSTS", "--data-dir", data_dir)
        assert (again.returncode, "has a key alice" in again.stderr, again.stdout) == (1, True, "")

        listed = run("keys", "list", "--data-dir", data_dir).stdout
        assert "name=alice  tenant=acme  scopes=BUDGETS,COSTS" in listed
        assert made.stdout.strip() not in listed

        assert "revoked=" in run("keys", "revoke", "alice", "--data-dir", data_dir).stdout
        unknown = run("keys", "revoke", "bob", "--data-dir", data_dir)
        assert (unknown.returncode, "no key bob" in unknown.stderr) == (1, True)

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            pytest.param((), "say what the key may do: --scope with one of COMPLETIONS,", id="no scope"),
            pytest.param(("--tenant", "acme"), "say what the key may do", id="no scope, of a tenant"),
            pytest.param(("--scope", "EVERYTHING"), "EVERYTHING is not a scope", id="unknown scope"),
            pytest.param(("--scope", "ADMIN", "--tenant", "acme"), "ADMIN reaches every tenant", id="ADMIN of a tenant"),
            pytest.param(
                ("--scope", "COSTS", "--scope", "admin", "--tenant", "default"), "ADMIN reaches", id="ADMIN among others"
            ),
            pytest.param(("--scope", "ADMIN", "--agent", "scout"), "bound to an agent cannot have ADMIN", id="ADMIN of an agent"),
            pytest.param(("--scope", "COSTS", "--expires", "tomorrow"), "tomorrow is no time", id="no time"),
            pytest.param(("--scope", "COSTS", "--expires", "2027"), "2027 is no time", id="a number without a unit"),
            pytest.param(("--scope", "COSTS", "--expires", "0d"), "expired already", id="no time at all"),
            pytest.param(("--scope", "COSTS", "--expires", "9999-12-31T23:00:00-14:00"), "is no time", id="after all time"),
            pytest.param(
                ("--scope", "COSTS", "--expires", "2020-01-01T00:00:00+00:00"), "expired already", id="a time that passed"
            ),
            pytest.param(("--scope", "COSTS", "--expires", "2099-01-01T00:00:00"), "offset from UTC", id="no offset"),
            pytest.param(("--scope", "COSTS", "--max-concurrent", "-1"), "at least 1", id="negative limit"),
        ],
    )
    def test_what_no_key_can_be_is_refused_before_anything_is_started(
        self, data_dir: Path, words: tuple[str, ...], said: str
    ) -> None:
        done = run("keys", "create", "bad", *words, "--data-dir", data_dir)
        assert done.returncode in {1, 2}
        assert said in done.stderr
        assert done.stdout == ""
        assert not data_dir.exists()

    def test_a_key_ends_after_a_year_unless_another_time_is_named(self, data_dir: Path) -> None:
        now = datetime.now(UTC)
        ends: dict[str, str] = {}
        said: dict[str, bool] = {}
        for name, words in {"usual": (), "short": ("--expires", "90d"), "endless": ("--expires", "never")}.items():
            made = run("keys", "create", name, "--scope", "COSTS", *words, "--data-dir", data_dir)
            said[name] = "expires in 365 days" in made.stderr
        for line in run("keys", "list", "--data-dir", data_dir).stdout.splitlines():
            facts = dict(fact.split("=", 1) for fact in line.split("  ")[1:])
            ends[facts["name"]] = facts["expires"]
        assert said == {"usual": True, "short": False, "endless": False}
        assert ends.pop("endless") == "never"
        days = {name: (datetime.fromisoformat(end) - now).total_seconds() / 86_400 for name, end in ends.items()}
        assert days == {"usual": pytest.approx(365, abs=0.01), "short": pytest.approx(90, abs=0.01)}

    def test_an_administrator_is_made_by_name_alone(self, data_dir: Path) -> None:
        made = run("keys", "create", "root", "--scope", "ADMIN", "--data-dir", data_dir)
        assert (made.returncode, made.stdout[:3]) == (0, "sk-")
        assert "tenant=default  scopes=ADMIN" in made.stderr


@pytest.mark.drill
class TestMigrate:
    def test_it_says_where_the_database_is_now_and_can_be_repeated(self, data_dir: Path) -> None:
        said = {run("migrate", "--data-dir", data_dir).stdout for _ in range(2)}
        assert len(said) == 1
        assert re.fullmatch(r"The database is at revision \d{4}\.\n", said.pop())


@pytest.mark.drill
class TestDoctor:
    def test_all_well(self, data_dir: Path) -> None:
        done = run("doctor", "--data-dir", data_dir)
        assert done.returncode == 0
        assert [line.split()[0] for line in done.stdout.splitlines()] == ["ok"] * 9
        assert re.search(r"^ok    cache\.memory +5 MiB in each process$", done.stdout, re.MULTILINE)
        assert re.search(r"^ok    cache\.shared +not configured$", done.stdout, re.MULTILINE)
        assert re.search(r"^ok    cache\.postgres +1024 MiB, for answers of 0\.01 USD and more$", done.stdout, re.MULTILINE)
        assert re.search(r"^ok    vectors pgvector +answers$", done.stdout, re.MULTILINE)
        assert re.search(r"^ok    cache\.local +private, in .*, 100 MiB, allkeys-lru$", done.stdout, re.MULTILINE)

    def test_a_store_that_is_away_fails_alone(self, data_dir: Path, free_tcp_port: int) -> None:
        done = run("doctor", "--data-dir", data_dir, GREENLANG_REDIS__URL=f"redis://127.0.0.1:{free_tcp_port}/0")
        assert done.returncode == 1
        assert [line.split()[:2] for line in done.stdout.splitlines() if line.startswith("FAIL")] == [["FAIL", "Redis"]]

    def test_a_cache_that_evicts_nothing_or_has_no_server_of_its_own_is_a_warning(
        self, data_dir: Path, valkey_url: str, free_tcp_port: int
    ) -> None:
        shared = run("doctor", "--data-dir", data_dir, GREENLANG_CACHE__SHARED__URL=valkey_url)
        assert re.search(r"^warn  cache\.shared .*evicts nothing", shared.stdout, re.MULTILINE)
        same = {"GREENLANG_REDIS__URL": valkey_url, "GREENLANG_CACHE__LOCAL__URL": valkey_url}
        one_server = run("doctor", "--data-dir", data_dir, **same)
        assert re.search(r"^warn  cache\.local .*server of redis\.url", one_server.stdout, re.MULTILINE)
        away = run("doctor", "--data-dir", data_dir, GREENLANG_CACHE__LOCAL__URL=f"redis://127.0.0.1:{free_tcp_port}/0")
        assert re.search(r"^warn  cache\.local .*as configured: Redis does not answer", away.stdout, re.MULTILINE)
        assert [done.returncode for done in (shared, one_server, away)] == [0, 0, 0]

    def test_content_in_clear_in_a_database_of_ones_own_is_a_warning(self, data_dir: Path, postgres_url: str) -> None:
        done = run("doctor", "--data-dir", data_dir, GREENLANG_DATABASE__PRIMARY=postgres_url)
        assert done.returncode == 0
        assert re.search(r"^warn  content .*content\.encryption_keys", done.stdout, re.MULTILINE)
        quiet = run("doctor", "--data-dir", data_dir, GREENLANG_DATABASE__PRIMARY=postgres_url, GREENLANG_CONTENT__STORE="false")
        assert (quiet.returncode, "warn" in quiet.stdout) == (0, False)

    def test_a_key_that_is_not_there_is_named(self, data_dir: Path, tmp_path: Path) -> None:
        provider = '[[providers]]\nname = "mine"\nkind = "anthropic"\napi_keys = [{ env = "NOT_SET" }]\n'
        (tmp_path / "keys.toml").write_text(provider, encoding="utf-8")
        done = run("doctor", "--data-dir", data_dir, "--config", tmp_path / "keys.toml")
        assert done.returncode == 1
        assert re.search(r"FAIL  provider mine .*NOT_SET", done.stdout)


class TestSimulate:
    def test_it_becomes_the_simulator(self, tmp_path: Path) -> None:
        with subprocess.Popen(
            [sys.executable, "-m", "app.cli", "simulate", "--log", tmp_path / "log.jsonl"],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        ) as process:
            assert process.stdout is not None
            assert b'"address"' in process.stdout.readline()
            process.terminate()
        assert process.returncode == 0


class TestExports:
    def test_the_secret_of_links_is_changed_each_time(self, data_dir: Path) -> None:
        printed = [run("exports", "rotate-secret", "--data-dir", data_dir).stdout for _ in range(2)]
        assert ["secret 2" in printed[0], "secret 3" in printed[1]] == [True, True]


@pytest.mark.drill
class TestVectors:
    def test_nothing_differs_where_there_are_no_collections(self, data_dir: Path) -> None:
        done = [run("vectors", "repair", *check, "--data-dir", data_dir) for check in ([], ["--check"])]
        assert [(each.returncode, each.stdout) for each in done] == [(0, ""), (0, "")]
