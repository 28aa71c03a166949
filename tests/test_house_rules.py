"""Rules no linter knows: the sizes that keep a reader's head above water, and what must never be committed."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
BANNED_NAMES = {"utils", "helpers", "common", "manager"}
SOURCE_ENDINGS = {".py", ".ts", ".js", ".mjs", ".css", ".html", ".lua"}
WORD_ENDINGS = {".css", ".graphql", ".html", ".js", ".lua", ".md", ".py", ".sql", ".toml"}
REPLACED_WORDS = [
    (r"\b_?(?:MOST|LONGEST|LARGEST|SHORTEST|SMALLEST)(?:_[A-Z]\w*)?\b|\b_?LEAST_(?!COST\b|LATENCY\b)[A-Z]\w*", "MAX_… or MIN_…"),
    (r"(?i)(?<![a-z])tellers?(?![a-z])", "leader"),
    (r"(?i)(?<![a-z])(?:un)?told(?! apart)(?![a-z])", "published, reported, said, asked"),
    (r"(?i)(?<![a-z])(?:un)?bur(?:y|ies|ied)(?![a-z])", "reclaim"),
    (r"(?i)(?<![a-z])from_the_dead(?![a-z])|\bfrom the dead\b", "reclaim an orphan"),
    (r"(?i)(?<![a-z])journeys?(?![a-z])", "call context"),
    (r"(?<!set )(?<!set_)(?<![A-Za-z])[Aa]side(?![a-z])", "offload"),
    (r"(?i)upkeep", "maintenance"),
    (r"(?i)(?<![a-z])see[sn]?_out(?![a-z])|\bsee[sn]? out\b", "drain"),
    (r"(?i)(?<![a-z])heed(?:s|ed)?(?![a-z])", "apply"),
    (r"(?i)(?<![a-z])mend(?:s|ed|ing)?(?![a-z])", "repair"),
    (r"(?i)tether|farewell", "parent-death signal"),
    (r"(?i)(?<![a-z])dear(?:er|est)?(?![a-z])", "expensive"),
    (r"(?i)(?<![a-z])who(?:m)?ever(?![a-z])", "a caller that, every process that"),
    (r"""(?<![\w@\"'`/])[Nn]obody(?![@\"'`/\w])|_nobody_""", "no caller, no process, not"),
    (r"(?i)(?<![a-z])strangers?(?![a-z])", "unauthenticated caller, other caller"),
    (r"(?i)(?<![a-z])crew(?![a-z])", "supervised parts"),
    (r"\bcheck_form\b|\bJsonForm\b", "JSON complexity check"),
    (r"(?i)silence[ _]?watch", "stall detector"),
    (r"\bof late\b", "recently"),
]
STORED_NAMES = [
    ("migrations/sql/00*", r"upkeep"),
    ("tests/app/costs/test_ledger_settle.py", r"upkeep"),
]
"""Names in databases of earlier versions, until the migration that changes them: files, and what may stand there."""

NO_SUBJECT = re.compile(r"(?:Of|Those|As `|To be)\b")
"""How a docstring opens that leaves out what it is about."""
PAGES_OF_NAMES = ["CONTRIBUTING.md", "docs/architecture.md", "docs/glossary.md"]
IS_A_PATH = re.compile(r"`([\w./-]+(?:/|\.(?:py|md|sql|toml|graphql)))(?:`|::)|`(app/[\w./-]+)`")
NO_PATHS = {"migrations/versions/NNNN_name.py"}

PUBLIC_ALL_THE_SAME = {"_replace": "named tuples", "_request_id": "the providers' SDKs"}
"""Names that begin with an underscore and are public all the same: where they come from."""
SETTERS = {"setattr", "getattr", "delattr"}


@cache
def tracked_files() -> list[Path]:
    """What git tracks, or, outside a checkout, every file that is not somebody's cache."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def python_files() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".py"]


@cache
def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def found_in(path: Path) -> tuple[list[str], list[str]]:
    """Its functions that are too long, and the private names of other objects in it. The tree itself is not kept, it is large."""
    nodes = [*ast.walk(ast.parse(read(path)))]
    where = path.relative_to(ROOT)
    long = [
        f"{where}:{node.lineno} {node.name}: {length}"
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    private = [
        f"{where}:{node.lineno} {name}" for node in nodes if isinstance(node, ast.expr | ast.stmt) for name in private_names(node)
    ]
    return long, private


def without_allowed(name: str, line: str) -> str:
    for files, pattern in STORED_NAMES:
        if fnmatch(name, files):
            line = re.sub(pattern, "", line)
    return line


class TestSizes:
    def test_no_source_file_is_longer_than_five_hundred_lines(self) -> None:
        long = {
            str(path.relative_to(ROOT)): length
            for path in tracked_files()
            if path.suffix in SOURCE_ENDINGS and (length := len(read(path).splitlines())) > MAX_FILE_LINES
        }
        assert long == {}

    def test_no_function_is_longer_than_sixty_lines(self) -> None:
        assert [each for path in python_files() for each in found_in(path)[0]] == []


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in PUBLIC_ALL_THE_SAME


def private_names(node: ast.AST) -> list[str]:
    """Of other objects and modules: those that are read, set, imported, or named to setattr and monkeypatch."""
    match node:
        case ast.Attribute(value=ast.Name(id="self" | "cls")):
            return []
        case ast.Attribute(attr=name):
            found = [name]
        case ast.ImportFrom(names=names):
            found = [alias.name for alias in names]
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=arguments) if name in SETTERS:
            texts = [each.value for each in arguments[:2] if isinstance(each, ast.Constant)]
            found = [text.rpartition(".")[2] for text in texts if isinstance(text, str)]
        case _:
            return []
    return [name for name in found if is_private(name)]


class TestPrivateNames:
    def test_tests_reach_no_private_name_of_another_object(self) -> None:
        """What a test needs is injected, such as a Clock, or it is public."""
        tests = [path for path in python_files() if path.is_relative_to(ROOT / "tests")]
        found = [each for path in tests if path != ROOT / "tests" / "core_schema.py" for each in found_in(path)[1]]
        assert found == []

    @pytest.mark.parametrize(
        ("statement", "found"),
        [
            ("services.streams._clock = clock", ["_clock"]),
            ("await ledger._renew()", ["_renew"]),
            ("from app.gateway.leases import _owner", ["_owner"]),
            ('monkeypatch.setattr(services.streams, "_clock", clock)', ["_clock"]),
            ('monkeypatch.setattr("app.llm.probes._TIMEOUT", 1)', ["_TIMEOUT"]),
            ("self._clock = clock", []),
            ("url._replace(netloc=there)", []),
            ("type(self).__name__", []),
        ],
    )
    def test_private_names_are_found_in(self, statement: str, found: list[str]) -> None:
        tree = ast.parse(f"async def test() -> None:\n    {statement}")
        assert [name for node in ast.walk(tree) for name in private_names(node)] == found


class TestNames:
    def test_no_module_is_named_by_what_it_is_not(self) -> None:
        assert [path for path in python_files() if path.stem in BANNED_NAMES] == []


class TestWhatIsNeverCommitted:
    @pytest.mark.parametrize(
        "pattern",
        [
            pytest.param(r'"resolved":\s*"https?:', id="a lock file's download address"),
            pytest.param(r"^\s*--(extra-)?index-url", id="a package server's address"),
            pytest.param(r"sk-(ant|proj)-[A-Za-z0-9_-]{20,}", id="a provider's key"),
        ],
    )
    def test_no_tracked_file_holds(self, pattern: str) -> None:
        found = [
            str(path.relative_to(ROOT))
            for path in tracked_files()
            if path != Path(__file__) and path.suffix not in {".png", ".ico"} and re.search(pattern, read(path), re.MULTILINE)
        ]
        assert found == []


class TestWords:
    """Words that were replaced by the field's own stay replaced: docs/glossary.md has the words to use."""

    @pytest.mark.parametrize(("pattern", "instead"), REPLACED_WORDS, ids=[instead for _, instead in REPLACED_WORDS])
    def test_no_replaced_word_comes_back(self, pattern: str, instead: str) -> None:
        found = [
            f"{name}:{number}: {line.strip()} (say: {instead})"
            for path in tracked_files()
            if path.suffix in WORD_ENDINGS and path != Path(__file__)
            for name in [path.relative_to(ROOT).as_posix()]
            if re.search(pattern, text := read(path))
            for number, line in enumerate(text.splitlines(), 1)
            if re.search(pattern, without_allowed(name, line))
        ]
        assert found == []


class TestDocstrings:
    def test_each_says_what_it_is_about(self) -> None:
        found = [
            f"{path.relative_to(ROOT)}:{node.lineno}: {text}"
            for path in python_files()
            if path.relative_to(ROOT).parts[0] in {"app", "resolvers", "schema", "simulator"}
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(text := node.value.value, str)
            if NO_SUBJECT.match(text)
        ]
        assert found == []


class TestPages:
    @pytest.mark.parametrize("page", PAGES_OF_NAMES)
    def test_name_files_that_exist(self, page: str) -> None:
        names = [path.relative_to(ROOT).as_posix() for path in tracked_files()]
        found = {match[1] or match[2] for match in IS_A_PATH.finditer((ROOT / page).read_text(encoding="utf-8"))}
        assert found
        gone = {path for path in found - NO_PATHS if not any(f"/{name}/".find(f"/{path.strip('/')}/") >= 0 for name in names)}
        assert gone == set()


class TestImportContracts:
    def test_both_layer_contracts_name_the_same_parts_of_app(self) -> None:
        contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
        inside, around = (
            {part.removeprefix("app.") for layer in contract["layers"] for part in re.split(r" [|:] ", layer)}
            for contract in contracts
            if contract["name"] in {"app: every part imports only what is below it", "app lies around schema and resolvers"}
        )
        assert around - inside == {"schema", "resolvers"}
        assert inside - around == set()

    def test_every_package_says_what_lives_there(self) -> None:
        packages = [path for path in (ROOT / "app").rglob("__init__.py") if "__pycache__" not in path.parts]
        assert [str(path) for path in packages if ast.get_docstring(ast.parse(read(path))) is None] == []
