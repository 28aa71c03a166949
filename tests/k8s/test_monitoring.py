"""Dashboards, rules and routes: every metric exists, and every alert fires, stays quiet, has a runbook and reaches a receiver."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from k8s.components.monitoring.dashboards import DASHBOARDS, FOLDER, dashboard
from tests.k8s.alert_cases import ALSO, AT, CASES, EXTRA
from tests.k8s.expressions import grouped_by, selectors
from tests.k8s.rendering import K8S, OVERLAYS, Object, Rendered
from tests.servers import Client, RunningServer, start_server

MONITORING = K8S / "components" / "monitoring"
ROOT = K8S.parent
OF_THE_SCRAPE = {"job", "pod", "namespace"}
HEADINGS = ["Signs", "What happens by itself", "What to do", "How to know it is over"]
RECEIVERS = {"page": "pagerduty-page", "ticket": "opsgenie-ticket", "none of these": "opsgenie-ticket"}
CALL = """
mutation($text: String!) {
  completionCreate(input: {messages: [{role: USER, text: $text}], cache: {mode: USE}}) { __typename ... on Problem { code } }
}"""


def groups(path: Path) -> list[Object]:
    found: list[Object] = yaml.safe_load(path.read_text())["spec"]["groups"]
    return found


def rule_files() -> list[Path]:
    return [MONITORING / "rules.yaml", *(K8S / "overlays" / name / "pods-alert.yaml" for name in reversed(OVERLAYS))]


def rules() -> list[Object]:
    return [rule for path in rule_files() for group in groups(path) for rule in group["rules"]]


def alerts() -> list[Object]:
    return [rule for rule in rules() if "alert" in rule]


def records() -> dict[str, str]:
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


def expressions() -> list[str]:
    panels = [panel for _, every in DASHBOARDS.values() for panel in every]
    return [rule["expr"] for rule in rules()] + [query for panel in panels for query, _ in panel.queries]


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        assert "CI" not in os.environ, f"{name} is missing"
        pytest.skip(f"there is no {name}: install Debian's prometheus and prometheus-alertmanager")
    return found


class TestDashboards:
    @pytest.mark.parametrize("name", DASHBOARDS)
    def test_file_is_what_the_script_writes(self, name: str) -> None:
        assert (FOLDER / f"{name}.json").read_text(encoding="utf-8") == dashboard(name)

    def test_are_in_the_config_map_of_each_overlay(self, rendered: Callable[[str], Rendered]) -> None:
        for overlay in OVERLAYS:
            found = rendered(f"overlays/{overlay}")
            [each] = [each for each in found.of_kind("ConfigMap") if each["metadata"].get("labels", {}).get("grafana_dashboard")]
            assert set(each["data"]) == {f"{name}.json" for name in DASHBOARDS}

    @pytest.mark.parametrize("name", DASHBOARDS)
    def test_panels_do_not_overlap_and_say_what_they_show(self, name: str) -> None:
        panels = json.loads(dashboard(name))["panels"]
        places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
        assert len(places) == len({panel["title"] for panel in panels}) == len(panels)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with start_server(tmp_path) as server:
        yield server


class TestMetrics:
    @pytest.mark.anyio
    async def test_in_every_expression_are_shown_by_a_running_server_with_those_labels(self, server: RunningServer) -> None:
        assert server.key is not None
        async with aiohttp.ClientSession() as session:
            client = Client(session, server, server.key)
            for _ in range(2):
                answer = await client.execute(CALL, {"text": "Say hello."})
                assert answer == {"completionCreate": {"__typename": "Completion"}}
            headers = {"Authorization": f"Bearer {server.key}"}
            async with session.get(f"{server.address}/metrics", headers=headers) as response:
                shown = await response.text()
        labels, samples = _shown(shown)
        wrong = [problem for expression in expressions() for problem in _wrong_in(expression, labels, samples)]
        assert wrong == []


def _shown(text: str) -> tuple[dict[str, set[str]], dict[str, list[dict[str, str]]]]:
    """The labels of each metric, and its samples. A metric without samples has the labels that docs/operating.md gives it."""
    documented = dict(re.findall(r"`(greenlang_\w+?)(?:\{([\w,]+)\})?`", (ROOT / "docs" / "operating.md").read_text()))
    labels: dict[str, set[str]] = {}
    samples: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "info": ("_info",)}.get(family.type, ("",))
        for ending in endings:
            of_docs = documented.get(family.name + ("_total" if ending == "_total" else ""), "")
            labels[family.name + ending] = {each for each in of_docs.split(",") if each} | (
                {"le"} if ending == "_bucket" else set()
            )
        for sample in family.samples:
            labels[sample.name] = set(sample.labels)
            samples.setdefault(sample.name, []).append(sample.labels)
    return labels, samples


def _wrong_in(expression: str, labels: dict[str, set[str]], samples: dict[str, list[dict[str, str]]]) -> Iterator[str]:
    known: set[str] = set(OF_THE_SCRAPE)
    recorded = records()
    for selector in selectors(expression):
        if ":" in selector.metric:
            if selector.metric not in recorded:
                yield f"{selector.metric} is not recorded: {expression}"
            known |= grouped_by(recorded.get(selector.metric, ""))
        elif selector.metric != "up":
            if selector.metric not in labels:
                yield f"{selector.metric} is not shown: {expression}"
            known |= labels.get(selector.metric, set())
        for label, operator, value in selector.matchers:
            values = {each.get(label, "") for each in samples.get(selector.metric, ())}
            matched = [each for each in values if re.fullmatch(value if "~" in operator else re.escape(value), each)]
            if selector.metric != "up" and not matched:
                yield f"no {selector.metric} has {label}{operator}{value}: {expression}"
    if missing := grouped_by(expression) - known:
        yield f"no metric has {sorted(missing)}: {expression}"


class TestAlerts:
    def test_are_preceded_by_what_they_use(self) -> None:
        first, *_ = groups(MONITORING / "rules.yaml")
        assert all("record" in rule for rule in first["rules"])
        assert set(records()) == {rule["record"] for rule in first["rules"]}

    def test_have_a_case_each(self) -> None:
        assert {rule["alert"] for rule in alerts()} == set(CASES)

    def test_fire_and_stay_quiet(self, tmp_path: Path) -> None:
        files = [MONITORING / "rules.yaml", K8S / "overlays" / "three-zones" / "pods-alert.yaml"]
        for path in files:
            (tmp_path / path.name).write_text(yaml.safe_dump({"groups": groups(path)}))
        written = {"rule_files": [path.name for path in files], "evaluation_interval": "1m", "tests": _promtool_tests()}
        (tmp_path / "cases.yaml").write_text(yaml.safe_dump(written))
        for command in (["check", "rules", *(path.name for path in files)], ["test", "rules", "cases.yaml"]):
            answer = subprocess.run([program("promtool"), *command], cwd=tmp_path, capture_output=True, text=True, check=False)
            assert answer.returncode == 0, answer.stdout + answer.stderr

    def test_pods_of_each_overlay_have_the_minimum_of_its_disruption_budget(self, rendered: Callable[[str], Rendered]) -> None:
        for overlay in OVERLAYS:
            found = rendered(f"overlays/{overlay}")
            [group] = found.one("PrometheusRule", "greenlang-pods")["spec"]["groups"]
            least = found.one("PodDisruptionBudget")["spec"]["minAvailable"]
            assert group["rules"][0]["expr"].endswith(f"< {least}")
            assert f" {least} pods" in group["rules"][0]["annotations"]["summary"]

    def test_lead_to_a_runbook_that_has_all_its_parts(self) -> None:
        for rule in alerts():
            page = ROOT / urlsplit(rule["annotations"]["runbook_url"]).path.removeprefix("/greenlang/")
            assert page.is_relative_to(ROOT / "docs" / "runbooks")
            found = [line.removeprefix("## ") for line in page.read_text().splitlines() if line.startswith("## ")]
            assert found[:4] == HEADINGS, page.name


def _promtool_tests() -> list[dict[str, Any]]:
    """Each test has the series of many alerts, no two of them for one metric, because each begins an empty database."""
    tests: list[dict[str, Any]] = []
    for name, case in [*CASES.items(), *EXTRA.items()]:
        rule = next(each for each in alerts() if each["alert"] == name)
        expected = {"exp_labels": rule["labels"] | case.labels, "exp_annotations": rule["annotations"]}
        for series, found in ((case.fires, [expected]), (case.quiet, [])):
            metrics = {each.partition("{")[0] for each in series} | ALSO.get(name, set())
            test = next((each for each in tests if not metrics & each["metrics"]), None)
            if test is None:
                test = {"metrics": set(), "interval": "1m", "input_series": [], "alert_rule_test": []}
                tests.append(test)
            test["metrics"] |= metrics
            test["input_series"] += [{"series": each, "values": values} for each, values in series.items()]
            test["alert_rule_test"].append({"eval_time": AT, "alertname": name, "exp_alerts": found})
    return [{key: value for key, value in test.items() if key != "metrics"} for test in tests]


class TestRoutes:
    def test_every_severity_has_a_receiver(self) -> None:
        assert {rule["labels"]["severity"] for rule in alerts()} <= RECEIVERS.keys()

    @pytest.mark.parametrize(("severity", "receiver"), RECEIVERS.items())
    def test_of_a_severity_leads_to_its_receiver(self, severity: str, receiver: str) -> None:
        command = [program("amtool"), "config", "routes", "test", f"--config.file={MONITORING / 'alertmanager.yml'}"]
        answer = subprocess.run(
            [*command, f"--verify.receivers={receiver}", f"severity={severity}"], capture_output=True, text=True, check=False
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert receiver in answer.stdout

    def test_keys_are_files(self) -> None:
        configuration = yaml.safe_load((MONITORING / "alertmanager.yml").read_text())
        assert [name for name in _keys(configuration) if re.search(r"(^|_)key(_file)?$", name)] == [
            "routing_key_file",
            "api_key_file",
        ]
        command = [program("amtool"), "check-config", str(MONITORING / "alertmanager.yml")]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def _keys(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield name
            yield from _keys(each)
    elif isinstance(value, list):
        for each in value:
            yield from _keys(each)
