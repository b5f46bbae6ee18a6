"""What lies in deploy/ for Prometheus and Grafana: rules by the real promtool, and that all of it speaks of metrics that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serve_app.config import Settings
from serve_app.telemetry import families, lifetime
from serve_app.telemetry.cost_metrics import cost_metrics
from serve_app.telemetry.embedder_metrics import EmbedderMetrics
from serve_app.telemetry.families import SECONDS, set_build_info
from serve_app.telemetry.gateway_metrics import GatewayMetrics
from serve_app.telemetry.key_metrics import KeyMetrics
from serve_app.telemetry.lifetime import Lifetime
from serve_app.telemetry.prices import read_price_book
from tests.expressions import DASHBOARD, expressions, grouped_by, panels, rules, selectors
from tests.promtool import DEPLOY, RULES, promtool

TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.test.yml"))

# What Prometheus or Serve's controller adds, beside what replicas count.
BEYOND = {"embedserve_replicas": {"deployment", "state"}, "embedserve_cost_usd_total": {"side", "offer"}}


@pytest.fixture(scope="module")
def exported() -> Iterator[dict[str, set[str]]]:
    """Every metric of the service by the names of its samples, with its labels, as the classes that count declare them."""
    found: dict[str, set[str]] = {name: set(labels) for name, labels in BEYOND.items()}

    def noting(kind: Any, *suffixes: str) -> Any:
        def make(name: str, help_text: str, labels: tuple[str, ...] = (), **options: Any) -> Any:
            for suffix in suffixes:
                found[name + suffix] = set(labels) | ({"le"} if suffix == "_bucket" else set())
            return kind(name, help_text, labels, **options)

        return make

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "Counter", noting(families.Counter, "_total"))
        patch.setattr(families, "Gauge", noting(families.Gauge, ""))
        patch.setattr(families, "Histogram", noting(families.Histogram, "_bucket", "_sum", "_count"))
        patch.setattr(lifetime.threading.Thread, "start", lambda self: None)
        GatewayMetrics(["m"], ["openai"])
        embedder = EmbedderMetrics("m", "r", lambda inputs, tokens, squares: 0.0, peak_flops=1.0)
        embedder.started(1.0, 1.0)
        embedder.memory({"allocated": 1})
        KeyMetrics()
        Lifetime("Embedder", "gpu", 1.0)
        set_build_info(version="1")
    yield found


def test_rules_and_configuration_are_sound() -> None:
    promtool("check", "rules", *RULES)
    promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name)
def test_rules_do_what_their_tests_say(file: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", file)


def test_every_rule_has_a_test() -> None:
    tested = "".join(file.read_text(encoding="utf-8") for file in TESTS)
    for rule in rules():
        name = rule.get("record") or rule["alert"]
        if match := re.fullmatch(r"(embedserve:\w+:ratio_rate)(5m|30m|1h|6h|3d)", name):
            assert f"{match[1]}(5m|30m|1h|6h|3d)" in tested or name in tested
        else:
            assert name in tested


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in {"page", "ticket", "info"}
            assert all(len(rule["annotations"][key]) > 20 for key in ("summary", "description")), rule["alert"]


def test_every_expression_parses(tmp_path: Path) -> None:
    file = tmp_path / "all.yml"
    file.write_bytes(
        msgspec.yaml.encode(
            {"groups": [{"name": "all", "rules": [{"record": "x", "expr": expr} for expr in expressions().values()]}]}
        )
    )
    assert f"{len(expressions())} rules found" in promtool("check", "rules", "--lint=none", file)


def test_every_metric_exists_with_the_labels_it_is_selected_by(exported: dict[str, set[str]]) -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for place, expression in expressions().items():
        metrics = selectors(expression)
        known: set[str] = set()
        for metric, labels in metrics:
            if metric in recorded:
                continue
            assert metric in exported, f"{place}: {metric}"
            assert labels <= exported[metric], f"{place}: {metric} has no {labels - exported[metric]}"
            known |= exported[metric]
        if known:
            assert grouped_by(expression) <= known, place


def test_the_threshold_of_slow_answers_is_a_bucket() -> None:
    bounds = set(re.findall(r'le="([\d.]+)"', RULES[0].read_text(encoding="utf-8")))
    assert bounds == {"0.5"}
    assert {float(bound) for bound in bounds} <= set(SECONDS)


def test_offers_that_alerts_and_panels_name_are_in_the_price_book() -> None:
    offers = {offer for expr in expressions().values() for offer in re.findall(r'offer="([^"]+)"', expr)}
    assert offers
    assert offers <= set(read_price_book().hosted)
    [family] = cost_metrics(read_price_book().pricing())({})
    assert offers <= {sample.labels["offer"] for sample in family.samples}


# --- the dashboard


def test_every_panel_explains_itself() -> None:
    titles = [panel["title"] for panel in panels()]
    assert len(set(titles)) == len(titles)
    for panel in panels():
        assert len(panel["description"]) > 20, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        several = len(panel["targets"]) > 1
        assert all(target["legendFormat"] for target in panel["targets"]) or not several, panel["title"]


def test_rows() -> None:
    found = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    wanted = ["Objectives (SLO)", "Traffic", "Stages", "Batching", "Devices", "Cost against hosted APIs", "Faults"]
    assert found == wanted


def test_panels_do_not_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_only_data_source_is_the_one_chosen_in_the_page() -> None:
    [variable] = DASHBOARD["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
    for panel in panels():
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": f"${{{variable['name']}}}"}


def test_the_pod_monitor_scrapes_a_port_that_can_be_opened() -> None:
    text = (DEPLOY / "prometheus" / "podmonitor.yaml").read_text(encoding="utf-8")
    monitor = msgspec.yaml.decode(text)
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    [port] = re.findall(r"name: ([\w-]+), containerPort: (\d+)", text)
    [setting] = re.findall(r"`metrics: (\{.*?\})`", text)
    settings = Settings.model_validate({"metrics": msgspec.yaml.decode(setting)})
    assert (endpoint["port"], int(port[1])) == (port[0], settings.metrics.node_port)
