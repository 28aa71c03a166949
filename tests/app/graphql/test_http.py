from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import logging
from datetime import timedelta
from urllib.parse import quote

import pytest

from app.domain.errors import Overloaded
from app.graphql.documents import MAX_QUEUED
from app.graphql.plans import PlannedExecutor
from tests.app.graphql.asgi import Client
from tests.app.graphql.serving import eventually
from tests.app.graphql.shop import ADMIN_KEY, OTHER_KEY, Shop, with_limits, with_server

pytestmark = pytest.mark.anyio

JSON = "application/json"
RESPONSE_JSON = "application/graphql-response+json"


class TestAnswering:
    async def test_a_query_by_post(self) -> None:
        answer = await Client(Shop().app()).post("query($n: String!) { hello(name: $n) }", {"n": "you"})
        assert answer.status == 200
        assert answer.data == {"hello": "hello you"}
        assert answer.headers["content-type"] == f"{RESPONSE_JSON}; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"

    async def test_a_query_by_get(self) -> None:
        query = "query=" + quote("query A($n: String) { hello(name: $n) } query B { tenant }")
        string = f"{query}&operationName=A&variables={quote(json.dumps({'n': 'ä'}))}"
        answer = await Client(Shop().app()).send(method="GET", query_string=string)
        assert answer.data == {"hello": "hello ä"}

    async def test_a_mutation_by_post(self) -> None:
        answer = await Client(Shop().app()).post('mutation { rename(name: "b") }')
        assert answer.data == {"rename": "b"}

    async def test_every_operation_has_a_context_of_its_own(self) -> None:
        shop = Shop()
        client = Client(shop.app())
        for _ in range(3):
            await client.post("{ tenant }")
        assert len({id(context) for context in shop.board.contexts}) == 3

    async def test_the_context_knows_the_caller_and_the_request(self) -> None:
        shop = Shop()
        await Client(shop.app(), headers={"x-request-id": "abc-1"}).post("{ tenant }")
        assert shop.board.contexts[0].principal.tenant == "acme"
        assert shop.board.contexts[0].request_id == "abc-1"

    async def test_points_asked_for_used_and_left_are_reported(self) -> None:
        shop = Shop(with_limits(allowance_capacity=1000, allowance_per_second=0.001))
        answer = await Client(shop.app()).post("{ rows(first: 100) { nodes { id } } }")
        assert answer.json["extensions"] == {"cost": {"requested": 101, "actual": 4, "remaining": 996}}


class TestWhoMayCall:
    @pytest.mark.parametrize("key", [None, "sk-wrong", ""])
    async def test_without_a_good_key_nothing_is_read_or_run(self, key: str | None) -> None:
        shop = Shop()
        answer = await Client(shop.app(), key=key).post('mutation { rename(name: "b") }')
        assert answer.status == 401
        assert answer.code == "UNAUTHENTICATED"
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.read == 0
        assert shop.board.contexts == []

    async def test_the_store_of_keys_being_away_is_said(self) -> None:
        shop = Shop()
        shop.keys.away = True
        answer = await Client(shop.app()).post("{ hello }")
        assert (answer.status, answer.code) == (503, "STORE_UNAVAILABLE")


class TestMethodsAndMediaTypes:
    @pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
    async def test_other_methods_are_refused_with_those_allowed(self, method: str) -> None:
        answer = await Client(Shop().app()).send(method=method)
        assert answer.status == 405
        assert answer.headers["allow"] == "GET, POST"
        assert answer.code == "METHOD_NOT_ALLOWED"

    @pytest.mark.parametrize("query", ['mutation { rename(name: "b") }', "{ search }", "{ ...F } fragment F on Query { search }"])
    async def test_get_never_changes_or_spends(self, query: str) -> None:
        shop = Shop()
        answer = await Client(shop.app()).send(method="GET", query_string=f"query={quote(query)}")
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
        assert shop.board.contexts == []

    @pytest.mark.parametrize("query", ["subscription { buy { number } }", 'mutation { rename(name: "b") }', "{ search }"])
    @pytest.mark.parametrize("accept", ["text/event-stream", f"{JSON}, text/event-stream;q=0.5"])
    async def test_nor_does_it_as_a_stream(self, query: str, accept: str) -> None:
        shop = Shop()
        answer = await Client(shop.app(), accept=accept).send(method="GET", query_string=f"query={quote(query)}")
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
        assert (shop.board.contexts, shop.board.opened) == ([], 0)

    async def test_a_subscription_gets_a_hint_where_to_go(self) -> None:
        shop = Shop()
        answer = await Client(shop.app()).post("subscription { count { number } }")
        assert (answer.status, answer.code) == (406, "NOT_ACCEPTABLE")
        assert "graphql-transport-ws" in str(answer.errors[0]["message"])
        assert shop.board.opened == 0

    async def test_of_several_lines_of_a_header_all_count(self) -> None:
        one = Client(Shop().app(), accept="text/plain", headers={"Accept": JSON})
        assert (await one.post("{ hello }")).status == 200
        two = Client(Shop().app(), headers={"Content-Type": "text/plain"})
        assert (await two.post("{ hello }")).code == "UNSUPPORTED_MEDIA_TYPE"

    @pytest.mark.parametrize(
        ("accept", "served"),
        [
            (None, JSON),
            ("*/*", JSON),
            ("application/*", JSON),
            (RESPONSE_JSON, RESPONSE_JSON),
            (f"{RESPONSE_JSON}, {JSON};q=0.9", RESPONSE_JSON),
            (f"{RESPONSE_JSON};q=0.5, {JSON}", JSON),
            (f"*/*;q=0.1, {RESPONSE_JSON};q=0.2", RESPONSE_JSON),
            (f"{JSON};q=0, */*", RESPONSE_JSON),
            ("application/json; charset=utf-8", JSON),
        ],
    )
    async def test_the_best_media_type_is_served(self, accept: str | None, served: str) -> None:
        answer = await Client(Shop().app(), accept=accept).post("{ hello }")
        assert (answer.status, answer.headers["content-type"]) == (200, f"{served}; charset=utf-8")

    @pytest.mark.parametrize("accept", ["application/xml", "text/html", "image/png;q=1", f"{JSON};q=0", "*/*;q=0"])
    async def test_what_we_do_not_have_is_not_acceptable(self, accept: str) -> None:
        answer = await Client(Shop().app(), accept=accept).post("{ hello }")
        assert (answer.status, answer.code) == (406, "NOT_ACCEPTABLE")

    @pytest.mark.parametrize(
        "content_type",
        [
            "",
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
            "application/graphql",
            f"{JSON}; charset=latin-1",
            f"{JSON}; odata=verbose; charset=latin-1",
            f"{JSON}; charset=utf-8; charset=latin-1",
        ],
    )
    async def test_only_json_is_taken(self, content_type: str) -> None:
        answer = await Client(Shop().app(), headers={"content-type": content_type}).post("{ hello }")
        assert (answer.status, answer.code) == (415, "UNSUPPORTED_MEDIA_TYPE")
        assert answer.read == 0

    @pytest.mark.parametrize(
        "content_type", ["Application/JSON", f'{JSON};charset="UTF-8"', f"{JSON}; charset=utf-8; odata=verbose"]
    )
    async def test_json_in_utf_8_is_taken_however_it_is_written(self, content_type: str) -> None:
        answer = await Client(Shop().app(), headers={"content-type": content_type}).post("{ hello }")
        assert answer.data == {"hello": "hello world"}


class TestMalformedBodies:
    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"null", id="null"),
            pytest.param(b"123", id="number"),
            pytest.param(b'"x"', id="string"),
            pytest.param(b"[]", id="list"),
            pytest.param(b'[{"query": "{ hello }"}]', id="batch"),
            pytest.param(b"{", id="cut off"),
            pytest.param(b'{"query": "\xff"}', id="invalid utf-8"),
            pytest.param(b'{"query": "\\ud800"}', id="lone surrogate"),
            pytest.param(b'{"query": "{ hello }", "variables": {"a": NaN}}', id="NaN"),
            pytest.param(b'{"query": "{ hello }", "variables": {"a": 1e999}}', id="infinite"),
            pytest.param(b'{"query": "{ hello }", "variables": {"a": ' + b"1" * 5000 + b"}}", id="integer of 5,000 digits"),
            pytest.param(b'{"query": "{ hello }", "variables": {"a": ' + b"[" * 50_000 + b"}}", id="50,000 nested lists"),
            pytest.param(b'{"query": 123}', id="query is a number"),
            pytest.param(b'{"query": null}', id="query is null"),
            pytest.param(b"{}", id="no query"),
            pytest.param(b'{"query": "{ hello }", "variables": []}', id="variables are a list"),
            pytest.param(b'{"query": "{ hello }", "operationName": {}}', id="operationName is an object"),
            pytest.param(b'{"query": "{ hello }", "extensions": 0}', id="extensions are a number"),
            pytest.param(b'{"query": "{ hello }"} x', id="trailing characters"),
        ],
    )
    @pytest.mark.parametrize("accept", [JSON, RESPONSE_JSON])
    async def test_they_are_the_callers_fault(self, body: bytes, accept: str) -> None:
        shop = Shop()
        answer = await Client(shop.app(), accept=accept).send(body)
        assert (answer.status, answer.code) == (400, "BAD_USER_INPUT")
        assert "data" not in answer.json
        assert shop.board.contexts == []

    @pytest.mark.parametrize("string", ["query=%FF", "query={hello}&variables=[]", "query={hello}&variables={", "", "a=1&" * 30])
    async def test_query_strings_too(self, string: str) -> None:
        answer = await Client(Shop().app()).send(method="GET", query_string=string)
        assert (answer.status, answer.code) == (400, "BAD_USER_INPUT")


class TestSizes:
    async def test_an_announced_body_over_the_limit_is_not_read(self) -> None:
        client = Client(Shop(with_limits(body_bytes=1000)).app(), headers={"content-length": "1001"})
        answer = await client.send(b"x" * 1001)
        assert (answer.status, answer.read) == (413, 0)
        assert answer.extensions == {"code": "LIMIT_EXCEEDED", "limit": "body bytes", "had": 1001, "allowed": 1000}

    async def test_a_body_is_cut_off_at_the_limit_while_reading(self) -> None:
        client = Client(Shop(with_limits(body_bytes=1000)).app())
        answer = await client.send(b"x" * 300 for _ in range(100))
        assert (answer.status, answer.read) == (413, 1200)

    async def test_bytes_in_flight_are_bounded_over_all_requests(self) -> None:
        shop = Shop(with_limits(bytes_in_flight=1500))
        app = shop.app()
        slow = json.dumps({"query": "{ held }", "variables": {"pad": "x" * 1000}}).encode()
        first = asyncio.create_task(Client(app).send(slow))
        await eventually(lambda: shop.board.contexts)
        second = await Client(app).send(slow)
        assert (second.status, second.code) == (503, "OVERLOADED")
        shop.board.gate.set()
        assert (await first).status == 200
        assert (await Client(app).send(slow)).status == 200

    @pytest.mark.parametrize("query", ["{ hello }", "{ refused }", "{ forbidden }"])
    async def test_nothing_of_a_request_stays_when_it_has_been_answered(self, query: str) -> None:
        """Not even until the garbage collector comes: its full turns are rare, and a request may hold many megabytes."""
        client = Client(Shop().app())
        gc.collect()
        gc.disable()
        try:
            await client.post(query, {"pad": "x"})
            assert not [each for each in gc.get_objects() if isinstance(each, PlannedExecutor)]
        finally:
            gc.enable()

    async def test_many_small_values_in_a_body_are_refused_before_they_unfold(self) -> None:
        body = b'{"query": "{ hello }", "variables": {"a": [' + b"[]," * 2_000_000 + b"[]]}}"
        chunks = (body[start : start + 65_536] for start in range(0, len(body), 65_536))
        answer = await Client(Shop().app()).send(chunks)
        assert (answer.status, answer.extensions["limit"]) == (413, "JSON values")

    async def test_a_large_table_in_a_text_is_one_value(self) -> None:
        body = json.dumps(
            {"query": "query($n: String!) { hello(name: $n) }", "variables": {"n": '"1,2",[3]\n' * 200_000}}
        ).encode()
        answer = await Client(Shop().app()).send(body[start : start + 65_536] for start in range(0, len(body), 65_536))
        assert answer.status == 200

    async def test_a_body_that_never_comes_is_given_up(self) -> None:
        app = Shop(with_limits(send_timeout=timedelta(milliseconds=50))).app()
        statuses: list[int] = []

        async def receive() -> dict[str, object]:
            await asyncio.sleep(10)
            raise AssertionError("this wait must never end")

        async def send(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(int(str(message["status"])))

        await app(Client(app).scope("POST", "", "/graphql"), receive, send)  # type: ignore[arg-type]  # plain dicts are messages
        assert statuses == [408]


class TestLoad:
    async def test_past_the_calls_in_flight_nothing_is_executed(self) -> None:
        shop = Shop(with_server(max_in_flight=1, retry_after=timedelta(milliseconds=1500)))
        app = shop.app()
        first = asyncio.create_task(Client(app).post("{ held }"))
        await eventually(lambda: shop.board.contexts)
        second = await Client(app).post("{ hello }")
        assert (second.status, second.headers["retry-after"]) == (503, "2")
        assert second.extensions == {"code": "OVERLOADED", "retryAfterMs": 1500}
        assert second.read == 0
        shop.board.gate.set()
        assert (await first).status == 200
        assert len(shop.board.contexts) == 1
        assert (await Client(app).post("{ hello }")).status == 200

    async def test_an_operation_out_of_time_is_ended(self) -> None:
        shop = Shop(with_limits(execution_timeout=timedelta(milliseconds=50)))
        answer = await Client(shop.app()).post("{ wait(seconds: 10) }")
        assert (answer.status, answer.code) == (504, "TIMEOUT")


class TestNewDocuments:
    async def test_of_one_key_wait_in_a_short_line(self) -> None:
        app = Shop().app()
        asked = [f"{{ hello }} # {'x' * 200}{number}" for number in range(MAX_QUEUED + 3)]
        answers = await asyncio.gather(*(Client(app).post(text) for text in asked), Client(app, OTHER_KEY).post(asked[-1] + "y"))
        assert [answer.status for answer in answers] == [200] * MAX_QUEUED + [503] * 3 + [200]
        assert answers[MAX_QUEUED].code == "OVERLOADED"
        assert (await Client(app).post(asked[-1])).status == 200

    @pytest.mark.parametrize(("text", "status"), [("{ hello } #" + "x" * 200, 200), ("{ nope } #" + "x" * 200, 400)])
    async def test_that_are_the_same_are_one(self, text: str, status: int) -> None:
        app = Shop().app()
        answers = await asyncio.gather(*(Client(app).post(text) for _ in range(5 * MAX_QUEUED)))
        assert {answer.status for answer in answers} == {status}


class TestFaultsOfTheDocument:
    @pytest.mark.parametrize(
        ("query", "variables", "code"),
        [
            ("{", None, "GRAPHQL_PARSE_FAILED"),
            ("", None, "GRAPHQL_PARSE_FAILED"),
            ("{ }", None, "GRAPHQL_PARSE_FAILED"),
            ("{ helo }", None, "GRAPHQL_VALIDATION_FAILED"),
            ("{ ...Nope }", None, "GRAPHQL_VALIDATION_FAILED"),
            ("query($a: ID!) { __typename }", {"a": None}, "GRAPHQL_VALIDATION_FAILED"),
            ("query($a: String!) { hello(name: $a) }", {"a": None}, "BAD_USER_INPUT"),
            ("query A { hello } query B { hello }", None, "BAD_USER_INPUT"),
        ],
    )
    async def test_status_by_media_type_and_no_data(self, query: str, variables: object, code: str) -> None:
        app = Shop().app()
        new, old = await Client(app).post(query, variables), await Client(app, accept=JSON).post(query, variables)
        assert (new.status, old.status) == (400, 200)
        assert new.json == old.json
        assert (new.code, "data" in new.json) == (code, False)

    async def test_an_operation_is_chosen_by_name(self) -> None:
        client = Client(Shop().app())
        answer = await client.post("query A { hello } query B { tenant }", operationName="B")
        assert answer.data == {"tenant": "acme"}
        unknown = await client.post("query A { hello }", operationName="C")
        assert (unknown.status, unknown.code) == (400, "BAD_USER_INPUT")

    async def test_where_it_went_wrong_is_said(self) -> None:
        answer = await Client(Shop().app()).post("{\n  helo\n}")
        assert answer.errors[0]["locations"] == [{"line": 2, "column": 3}]


class TestErrorsOfFields:
    async def test_a_surprise_is_masked_and_its_id_is_in_the_log(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.ERROR):
            answer = await Client(Shop().app()).post("{ hello broken }")
        assert answer.status == 200
        assert answer.json["data"] == {"hello": "hello world", "broken": None}
        assert answer.code == "INTERNAL"
        assert answer.errors[0]["path"] == ["broken"]
        assert "secret" not in answer.body.decode()
        assert [record.__dict__["error_id"] for record in caplog.records] == [answer.extensions["errorId"]]
        assert "secret detail" in caplog.text

    async def test_a_result_that_does_not_fit_its_type_is_our_fault(self) -> None:
        answer = await Client(Shop().app()).post("{ tooLarge }")
        assert answer.code == "INTERNAL"
        assert str(2**40) not in answer.body.decode()

    @pytest.mark.parametrize(
        ("field", "code", "message"),
        [
            ("refused", "BAD_USER_INPUT", "the name is taken"),
            ("forbidden", "FORBIDDEN", "needs the scope COSTS"),
            ("store", "STORE_UNAVAILABLE", "PostgreSQL does not answer"),
            ("late", "TIMEOUT", "the call ran out of its time"),
        ],
    )
    async def test_named_errors_keep_their_words(self, field: str, code: str, message: str) -> None:
        answer = await Client(Shop().app()).post(f"{{ hello {field} }}")
        assert (answer.status, answer.code, answer.errors[0]["message"]) == (200, code, message)
        assert answer.json["data"] == {"hello": "hello world", field: None}

    async def test_before_anything_ran_the_status_says_it_too(self) -> None:
        shop = Shop()
        shop.board.no_context = Overloaded(250)
        answer = await Client(shop.app()).post("{ hello }")
        assert (answer.status, answer.extensions["retryAfterMs"]) == (503, 250)


class TestProduction:
    async def test_a_typo_names_nothing_but_for_an_administrator(self) -> None:
        app = Shop(with_server(production=True)).app()
        answer = await Client(app).post("{ helo }")
        assert "hello" not in answer.body.decode()
        assert "hello" in (await Client(app, key=ADMIN_KEY).post("{ helo }")).body.decode()

    async def test_introspection_is_for_administrators(self) -> None:
        app = Shop(with_server(production=True)).app()
        answer = await Client(app).post("{ __schema { queryType { name } } }")
        assert (answer.status, answer.code) == (403, "FORBIDDEN")
        hidden = await Client(app).post('{ ...F } fragment F on Query { __type(name: "Row") { name } }')
        assert hidden.status == 403
        assert (await Client(app).post("{ __typename }")).status == 200
        assert (await Client(app, key=ADMIN_KEY).post("{ __schema { queryType { name } } }")).status == 200

    async def test_so_is_the_sdl(self) -> None:
        app = Shop(with_server(production=True)).app()
        refused = await Client(app, key=None).send(method="GET", path="/graphql/schema.graphql")
        assert (refused.status, refused.code) == (401, "UNAUTHENTICATED")
        forbidden = await Client(app).send(method="GET", path="/graphql/schema.graphql")
        assert (forbidden.status, forbidden.code) == (403, "FORBIDDEN")
        served = await Client(app, key=ADMIN_KEY).send(method="GET", path="/graphql/schema.graphql")
        assert b"type Query" in served.body
        open_one = await Client(Shop().app(), key=None).send(method="GET", path="/graphql/schema.graphql")
        assert open_one.status == 200


class TestPersistedQueries:
    QUERY = "{ tenant }"
    HASH = hashlib.sha256(QUERY.encode()).hexdigest()

    def extension(self, sha: str, version: int = 1) -> dict[str, object]:
        return {"persistedQuery": {"version": version, "sha256Hash": sha}}

    async def test_a_hash_is_asked_for_once(self) -> None:
        client = Client(Shop().app())
        unknown = await client.send_json({"extensions": self.extension(self.HASH)})
        assert unknown.errors[0]["message"] == "PersistedQueryNotFound"
        sent = await client.send_json({"query": self.QUERY, "extensions": self.extension(self.HASH)})
        assert sent.data == {"tenant": "acme"}
        known = await client.send_json({"extensions": self.extension(self.HASH)})
        assert known.data == {"tenant": "acme"}

    async def test_a_hash_of_another_text_is_refused(self) -> None:
        client = Client(Shop().app())
        answer = await client.send_json({"query": "{ hello }", "extensions": self.extension(self.HASH)})
        assert (answer.status, answer.code) == (400, "BAD_USER_INPUT")
        assert (await client.send_json({"extensions": self.extension(self.HASH)})).status == 400

    async def test_a_bad_document_is_not_kept(self) -> None:
        client = Client(Shop().app())
        extension = self.extension(hashlib.sha256(b"{ nope }").hexdigest())
        assert (await client.send_json({"query": "{ nope }", "extensions": extension})).code == "GRAPHQL_VALIDATION_FAILED"
        assert (await client.send_json({"extensions": extension})).errors[0]["message"] == "PersistedQueryNotFound"

    @pytest.mark.parametrize("extension", [7, {}, {"version": 2, "sha256Hash": HASH}, {"version": 1, "sha256Hash": "x"}])
    async def test_other_shapes_are_refused(self, extension: object) -> None:
        answer = await Client(Shop().app()).send_json({"extensions": {"persistedQuery": extension}})
        assert (answer.status, answer.code) == (400, "BAD_USER_INPUT")


class TestTrustedDocuments:
    @pytest.fixture
    def shop(self, tmp_path: object) -> Shop:
        path = tmp_path / "documents.json"  # type: ignore[operator]  # a Path
        path.write_text(json.dumps({"tenant-1": "{ tenant }"}))
        return Shop(with_limits(trusted_documents=path, trusted_only=True))

    async def test_a_listed_document_runs_by_its_id_or_text(self, shop: Shop) -> None:
        client = Client(shop.app())
        assert (await client.send_json({"documentId": "tenant-1"})).data == {"tenant": "acme"}
        assert (await client.post("{ tenant }")).data == {"tenant": "acme"}

    async def test_anything_else_is_refused_but_for_an_administrator(self, shop: Shop) -> None:
        app = shop.app()
        assert (await Client(app).post("{ hello }")).code == "FORBIDDEN"
        assert (await Client(app).send_json({"documentId": "nope"})).code == "BAD_USER_INPUT"
        assert (await Client(app, key=ADMIN_KEY).post("{ hello }")).status == 200
        assert (await Client(app).post("{ hello }")).code == "FORBIDDEN"


class TestConsole:
    BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

    async def test_a_browser_gets_the_page_without_a_key(self) -> None:
        client = Client(Shop().app(), key=None, accept=self.BROWSER)
        answer = await client.send(method="GET")
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        page = answer.body.decode()
        assert "://" not in page
        assert "<script>" not in page
        assert "imulator" not in page

    async def test_it_says_when_the_simulator_stands_in(self) -> None:
        answer = await Client(Shop(simulated=True).app(), key=None, accept=self.BROWSER).send(method="GET")
        assert "a simulator on this machine stands in" in answer.body.decode()

    async def test_there_is_none_in_production(self) -> None:
        app = Shop(with_server(production=True)).app()
        page = await Client(app, key=None, accept=self.BROWSER).send(method="GET")
        assert (page.status, page.headers["content-type"]) == (401, "application/json; charset=utf-8")
        assert (await Client(app, accept="text/html").send(method="GET")).status == 406
        for name in ("css", "js", "svg"):
            assert (await Client(app).send(method="GET", path=f"/graphql/console.{name}")).status == 404

    @pytest.mark.parametrize(("name", "media"), [("css", "text/css"), ("js", "text/javascript"), ("svg", "image/svg+xml")])
    async def test_its_files_are_ours(self, name: str, media: str) -> None:
        answer = await Client(Shop().app(), key=None).send(method="GET", path=f"/graphql/console.{name}")
        assert (answer.status, answer.headers["content-type"].split(";")[0]) == (200, media)

    async def test_a_post_never_gets_the_page(self) -> None:
        answer = await Client(Shop().app(), accept=self.BROWSER).post("{ hello }")
        assert answer.data == {"hello": "hello world"}
