from __future__ import annotations

import traceback
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from app.domain.errors import SettingsError
from app.secrets.reference import SecretReference
from app.settings import ModelSettings, Settings, load_settings

STORE = "[[vectors.stores]]\nname = 'far'\n"
PROVIDER = '[[providers]]\nname = "a"\nkind = "openai"\nmodels = ["m", "n"]\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "greenlang.toml"


def load(file: Path, text: str) -> Settings:
    file.write_text(text, encoding="utf-8")
    return load_settings(file, {})


class TestSources:
    def test_nothing_written_is_all_defaults(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert load_settings(None, {}) == Settings()

    def test_the_file_of_the_folder_is_found(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(file.parent)
        file.write_text("[server]\nport = 8500\n")
        assert load_settings(None, {}).server.port == 8500

    def test_the_command_line_beats_the_environment_beats_the_file(self, file: Path) -> None:
        file.write_text('[server]\nport = 1\nworkers = 1\nhost = "a"\n')
        environ = {"GREENLANG_SERVER__WORKERS": "2", "GREENLANG_SERVER__HOST": "b"}
        server = load_settings(file, environ, {"server.host": "c", "server.data_dir": Path("d"), "server.workers": None}).server
        assert (server.port, server.workers, server.host, server.data_dir) == (1, 2, "c", Path("d"))

    def test_it_goes_to_another_process_as_json_without_a_secret(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KEY", "hidden")
        settings = load(file, PROVIDER + 'api_keys = { env = "KEY" }\n[content]\nttl = "90m"\n')
        written = settings.model_dump_json()
        assert Settings.model_validate_json(written) == settings
        assert settings.providers[0].api_keys[0].reveal() == "hidden"
        assert "hidden" not in written + repr(settings)


class TestValues:
    def test_one_or_a_list_of_keys(self, file: Path) -> None:
        one = load(file, PROVIDER + 'api_keys = { env = "A" }\n')
        two = load(file, PROVIDER + 'api_keys = [{ env = "A" }, { file = "b" }]\n')
        assert one.providers[0].api_keys == (SecretReference(env="A"),)
        assert two.providers[0].api_keys == (SecretReference(env="A"), SecretReference(file=Path("b")))

    def test_models_by_name_or_as_tables(self, file: Path) -> None:
        price = '{ input_usd = 0.1, output_usd = "0.4" }'
        models = f'models = ["m", {{ name = "n", price = {price} }}]'
        settings = load(file, f'[[providers]]\nname = "a"\nkind = "openai"\n{models}\n')
        plain, priced = settings.providers[0].models
        assert plain == ModelSettings(name="m")
        assert priced.price is not None
        assert (priced.price.input_usd, priced.price.output_usd) == (Decimal("0.1"), Decimal("0.4"))

    def test_one_or_a_list_of_networks(self, file: Path) -> None:
        assert load(file, '[server]\ntrusted_proxies = "10.0.0.1"\n').server.trusted_proxies == ("10.0.0.1/32",)
        several = load_settings(file, {"GREENLANG_SERVER__TRUSTED_PROXIES": "10.0.0.0/8, ::1"}).server.trusted_proxies
        assert several == ("10.0.0.0/8", "::1/128")

    def test_lengths_of_time(self, file: Path) -> None:
        settings = load(file, '[redis]\nsocket_timeout = "250ms"\n[content]\nttl = 60\n')
        assert (settings.redis.socket_timeout, settings.content.ttl) == (timedelta(milliseconds=250), timedelta(minutes=1))


class TestFaults:
    """Each names its place, says what would be right, and where it was written."""

    @pytest.mark.parametrize(
        ("text", "path", "right"),
        [
            (PROVIDER + 'base_ur = "http://x"', "providers[0].base_ur", "did you mean base_url?"),
            ("[servr]\nport = 1", "servr", "did you mean server?"),
            ("[cache]\nzzz = 1", "cache.zzz", "known are enabled"),
            ("[server]\nport = 'x'", "server.port", "valid integer"),
            ("[server]\nport = '8400'", "server.port", "valid integer"),
            ("[server]\nport = true", "server.port", "valid integer"),
            ("[server]\nport = 70000", "server.port", "65535"),
            ("[server]\nworkers = 0", "server.workers", "greater than 0"),
            ("[server]\nproduction = 'yes'", "server.production", "boolean"),
            ("[server]\nlog_level = 'loud'", "server.log_level", "'debug', 'info', 'warning' or 'error'"),
            ("[server]\ntrusted_proxies = ['10.0.0.0/8', 'proxy']", "server.trusted_proxies[1]", '"10.0.0.0/8"'),
            ("[server]\ntrusted_proxies = ['10.0.0.1/8']", "server.trusted_proxies[0]", "no bits after its prefix"),
            ("server = 5", "server", "a table with the keys host, port"),
            ("providers = 5", "providers", "a list"),
            ("[database]\nconnect_timeout = 0", "database.connect_timeout", "longer than zero"),
            ("[content]\nttl = 'long'", "content.ttl", '"250ms"'),
            ("[budgets.per_tenant]\nperiod = 'DAY'", "budgets.per_tenant.limit_usd", "missing"),
            ("[budgets.per_tenant]\nlimit_usd = true", "budgets.per_tenant.limit_usd", "a number"),
            ("[budgets.per_tenant]\nlimit_usd = nan", "budgets.per_tenant.limit_usd", "finite"),
            ("[budgets.per_tenant]\nlimit_usd = 1\ntime_zone = 'Mars'", "budgets.per_tenant.time_zone", "Europe/Berlin"),
            ("[budgets.per_tenant]\nlimit_usd = 1\ntime_zone = 'localtime'", "budgets.per_tenant.time_zone", "Europe/Berlin"),
            ("[budgets.per_tenant]\nlimit_usd = 1\nthresholds = [0]", "budgets.per_tenant.thresholds[0]", "or equal to 1"),
            ("[[providers]]\nkind = 'openai'", "providers[0].name", "missing"),
            ("[[providers]]\nname = 'A/b'\nkind = 'openai'", "providers[0].name", "a-z, 0-9, _ and -"),
            ("[[providers]]\nname = 'a'\nkind = 'gemini'", "providers[0].kind", "'anthropic', 'openai' or 'openai-compatible'"),
            (PROVIDER + "base_url = 'ftp://x'", "providers[0].base_url", "https://host"),
            (PROVIDER + "base_url = 'https://u:hidden@x'", "providers[0].base_url", "no user, password"),
            (PROVIDER + "base_url = 'http://x:abc/v1'", "providers[0].base_url", "a port from 1 to 65535"),
            (PROVIDER + "base_url = 'http://x:99999/v1'", "providers[0].base_url", "a port from 1 to 65535"),
            (PROVIDER + "base_url = 'http://[::1/v1'", "providers[0].base_url", "https://host"),
            (PROVIDER + "base_url = 'http://a b/v1'", "providers[0].base_url", "no blanks"),
            (PROVIDER + "base_url = 'http://a:0/v1'", "providers[0].base_url", "a port from 1 to 65535"),
            (PROVIDER + "base_url = 'http://a%zz/v1'", "providers[0].base_url", "each part of a name"),
            ("[[webhooks]]\nurl = 'http://a|b/v1'\nsecret = { env = 'S' }", "webhooks[0].url", "each part of a name"),
            ("[server]\npublic_url = 'http://a%zz'", "server.public_url", "each part of a name"),
            (PROVIDER + "simulated = true", "providers[0].simulated", "unknown key"),
            ("[vectors]\ndefault_store = 'x'", "vectors.default_store", "known are pgvector"),
            (STORE + "kind = 'pinecone'", "vectors.stores[0].api_key", "missing"),
            (
                STORE + "kind = 'chroma'\napi_key = { env = 'K' }",
                "vectors.stores[0].api_key",
                "only a store of the kind pinecone",
            ),
            (
                STORE + "kind = 'chroma'\nindex_prefix = 'x'",
                "vectors.stores[0].index_prefix",
                "only a store of the kind pinecone",
            ),
            (STORE + "kind = 'chroma'\nurl = 'http://x'", "vectors.stores[0].url", "a secret is"),
            (STORE + "kind = 'pinecone'\napi_key = { env = 'K' }\nurl = { env = 'U' }", "vectors.stores[0].url", "kind chroma"),
            (STORE + "kind = 'pinecone'\nindex_prefix = 'A_b'", "vectors.stores[0].index_prefix", "a-z, 0-9 and -"),
            (STORE + "kind = 'pgvector'", "vectors.stores[0].name", "the one store"),
            (PROVIDER + "[providers.breaker]\nfailure_rate = 1.5", "providers[0].breaker.failure_rate", "or equal to 1"),
            (PROVIDER + PROVIDER, "providers[1].name", "taken by [0]"),
            (PROVIDER + "enabled = false", "providers", "none is enabled"),
            ("[[providers]]\nname = 'a'\nkind = 'openai'\nmodels = ['m', 'm']", "providers[0].models[1].name", "taken by [0]"),
            ("[[providers]]\nname = 'a'\nkind = 'openai-compatible'\nmodels = ['m']", "providers[0].base_url", "missing"),
            ("[[providers]]\nname='a'\nkind='openai-compatible'\nbase_url='http://x'", "providers[0].models", "missing"),
            (PROVIDER + "[[routes]]\nname = 'r'\ntargets = []", "routes[0].targets", "at least 1"),
            (PROVIDER + "[[routes]]\nname = 'r'\ntargets = ['a/o']", "routes[0].targets[0]", "did you mean a/n?"),
            (PROVIDER + "[[routes]]\nname = 'r'\ntargets = ['a/m', 'a/m']", "routes[0].targets[1]", "in this route already"),
            (
                PROVIDER + "[[routes]]\nname='r'\ntargets=['a/m']\n[[routes]]\nname='r'\ntargets=['a/m']",
                "routes[1].name",
                "taken",
            ),
            ("[[routes]]\nname = 'r'\ntargets = ['openai/gpt-6-so']", "routes[0].targets[0]", "did you mean openai/gpt-6-sol?"),
            ("[server]\nshare_per_tenant = 0.5", "server.share_per_key", "more than share_per_tenant"),
            ("[server]\nshare_per_key = 1.5", "server.share_per_key", "less than or equal to 1"),
            ("[server]\nshare_for_admin = 1", "server.share_for_admin", ""),
            ("[limits]\ntrusted_only = true", "limits.trusted_documents", "the file with the documents"),
            ('[database]\nowner = { env = "OWNER" }\n', "database.owner", "needs database.primary"),
            ('[database]\nidle_transaction_timeout = "30s"\n', "database.idle_transaction_timeout", "longer than 30s"),
            ('[database]\nidle_transaction_timeout = "1ms"\n', "database.idle_transaction_timeout", "longer than 30s"),
            ('[[webhooks]]\nurl = "http://127.1/"\nsecret = { env = "S" }\n', "webhooks[0].url", "all four numbers"),
            ('[[webhooks]]\nurl = "http://1.2.3:80/"\nsecret = { env = "S" }\n', "webhooks[0].url", "all four numbers"),
        ],
    )
    def test_in_the_file(self, file: Path, text: str, path: str, right: str) -> None:
        with pytest.raises(SettingsError) as caught:
            load(file, text)
        assert caught.value.path == path
        assert right in caught.value.problem
        assert str(file) in caught.value.problem

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"absent\.toml: cannot be read: No such file"):
            load_settings(tmp_path / "absent.toml", {})

    def test_not_toml(self, file: Path) -> None:
        with pytest.raises(SettingsError, match=r"greenlang\.toml: it is not TOML: .*line 2"):
            load(file, "[server]\nport = = 1\n")

    def test_not_utf8(self, file: Path) -> None:
        file.write_bytes(b'[server]\nhost = "\xff"\n')
        with pytest.raises(SettingsError, match="not UTF-8"):
            load_settings(file, {})

    def test_on_the_command_line(self) -> None:
        with pytest.raises(SettingsError, match=r"server\.port: .*\(command line\)"):
            load_settings(None, {}, {"server.port": -1})

    @pytest.mark.parametrize(
        "text",
        [
            "[database]\nprimary = 'postgresql://u:hidden@h/db'",
            "[database]\nprimary = { value = 'hidden' }",
            "[database]\nprimary = ['hidden']",
            "[redis]\nurl = 'redis://:hidden@h'",
            PROVIDER + "api_keys = 'sk-hidden'",
            PROVIDER + "api_keys = [{ env = 'A' }, 'sk-hidden']",
            PROVIDER + "api_key = 'sk-hidden'",
            PROVIDER + "base_url = 'https://u:hidden@x'",
            "[content]\nencryption_keys = 'hidden'",
            "[server]\nport = 'hidden'",
        ],
    )
    def test_a_secret_in_the_file_is_refused_and_never_repeated(self, file: Path, text: str) -> None:
        with pytest.raises(SettingsError) as caught:
            load(file, text)
        assert "hidden" not in str(caught.value)
        assert "hidden" not in "".join(traceback.format_exception(caught.value)).replace(text, "")
