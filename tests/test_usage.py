"""`GET /v1/usage`, the cost metrics and `embedserve cost`: one report, three ways to it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from serve_app.api.app import build_app
from serve_app.cli import app
from serve_app.cluster.usage import pricing, usage_route
from serve_app.config import CostSettings, Settings
from serve_app.telemetry.cost import consumption
from serve_app.telemetry.cost_metrics import cost_metrics
from serve_app.telemetry.ledger import KeyUsage
from serve_app.telemetry.snapshot import Family, Snapshot
from serve_app.telemetry.usage import UsageReport, usage_report
from serve_app.telemetry.usage_table import usage_table
from tests.test_cost import TOTALS
from tests.test_openapi import Ones

PRICES = pricing(CostSettings(gpu="aws:a10g"))


async def counted() -> dict[str, Snapshot]:
    snapshot = Snapshot()
    for series, value in TOTALS.items():
        snapshot.put(Family(series[0], "counter", ""), series, value)
    return {"here": snapshot}


@pytest.fixture
async def document_and_reply() -> tuple[dict[str, Any], dict[str, Any]]:
    service = build_app(Ones(), extra_routes=[usage_route(counted, PRICES)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://test") as client:
        reply = await client.get("/v1/usage")
        assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
        return (await client.get("/openapi.json")).json(), reply.json()


async def test_the_route_answers_as_documented(
    document_and_reply: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    document, reply = document_and_reply
    Draft202012Validator({**document, "$ref": "#/components/schemas/UsageReport"}).validate(reply)
    assert reply["object"] == "usage"
    assert (reply["requests"], reply["prompt_tokens"], reply["utilisation"]) == (1000, 2_000_000, 0.25)
    assert reply["devices"] == [
        {"device": "gpu", "name": "aws:a10g", "seconds": 7200, "usd_per_hour": 1.006, "usd": pytest.approx(2.012)}
    ]
    assert reply["claim"]["verdict"] == "refuted"
    assert msgspec.convert(reply, UsageReport) == usage_report(consumption(TOTALS), PRICES)


def test_the_counter_of_dollars() -> None:
    [family] = cost_metrics(PRICES)(TOTALS)
    assert (family.name, family.type) == ("embedserve_cost_usd", "counter")
    values = {(sample.labels["side"], sample.labels["offer"]): sample.value for sample in family.samples}
    assert {sample.name for sample in family.samples} == {"embedserve_cost_usd_total"}
    assert values["self", "aws:a10g"] == pytest.approx(2.012)
    assert values["hosted", "cohere:embed-v4.0"] == pytest.approx(0.24)
    assert len(values) == 1 + len(PRICES.hosted)


def test_settings_choose_the_prices(tmp_path: Path) -> None:
    book = tmp_path / "prices.yaml"
    book.write_text(Path("deploy/prices.yaml").resolve().read_text().replace("usd_per_hour: 4.59", "usd_per_hour: 9"))
    cost = Settings.model_validate({"cost.price_book": str(book), "cost.token_factor": "1.5"}).cost
    assert pricing(cost).devices["gpu"].usd_per_hour == 9
    assert pricing(cost).hosted["cohere:embed-v4.0"].usd_per_million_of_ours == pytest.approx(0.18)
    with pytest.raises(ValueError, match="h300"):
        pricing(CostSettings(gpu="h300"))


# --- the command


class _Usage(BaseHTTPRequestHandler):
    """Answers `/v1/usage` with the report of `TOTALS`, `/odd/v1/usage` with something else."""

    def do_GET(self) -> None:
        found = self.path.endswith("/v1/usage")
        totals = {
            series: value for series, value in TOTALS.items() if "cpu" not in self.path or "device" not in series[0]
        }
        report = replace(usage_report(consumption(totals), PRICES), keys=[KeyUsage("a", "m", 1, 1, 1e6, 1.006)])
        body = b"{}" if "odd" in self.path else msgspec.json.encode(report)
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Usage)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def cost(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["cost", *arguments])
    return done.exit_code, done.output


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_of_a_running_service(url: str, path: str) -> None:
    code, said = cost("--url", url + path)
    assert (code, said) == (0, usage_table(usage_report(consumption(TOTALS), PRICES)) + "\n")
    assert "2.0M tokens in 1,000 requests (2,000 tokens each)" in said
    assert "2.00 h of aws:a10g at $1.006/h: $2.0120" in said
    assert "$1.006 per million tokens" in said


def test_of_a_running_service_as_json_at_other_prices(url: str) -> None:
    code, said = cost("--url", url, "--gpu", "runpod:h200", "--token-factor", "2", "--json")
    report = json.loads(said)
    assert (code, report["usd"]) == (0, pytest.approx(9.18))
    [cohere] = [hosted for hosted in report["hosted"] if hosted["offer"] == "cohere:embed-v4.0"]
    assert (cohere["usd_per_million_tokens"], cohere["usd"]) == (0.24, pytest.approx(0.48))


def test_prices_that_are_not_given_stay_the_service_s(url: str) -> None:
    """Its GPU is another than the package's default."""
    said = json.loads(cost("--url", url, "--token-factor", "2", "--json")[1])
    assert [(each["name"], each["usd"]) for each in said["devices"]] == [("aws:a10g", pytest.approx(2.012))]
    own = {each.offer: each for each in usage_report(consumption(TOTALS), PRICES).hosted}
    for each in said["hosted"]:
        theirs = own[each["offer"]].usd_per_million_tokens / own[each["offer"]].token_factor
        assert (each["token_factor"], each["usd_per_million_tokens"]) == (2, pytest.approx(2 * theirs))
    said = json.loads(cost("--url", url, "--gpu-usd-per-hour", "2", "--json")[1])
    assert [(each["name"], each["usd"]) for each in said["devices"]] == [("aws:a10g", pytest.approx(4))]
    assert [each["usd"] for each in said["keys"]] == [pytest.approx(2)]


def test_without_a_gpu_there_is_no_price_of_one(url: str) -> None:
    code, said = cost("--url", f"{url}/cpu", "--gpu", "runpod:h200")
    assert (code, "has held no GPU" in said) == (1, True)


@pytest.mark.parametrize("form", ["{0}", "{0}/", "{0}/v1"])
def test_an_address_needs_no_scheme(url: str, form: str) -> None:
    assert cost("--url", form.format(url.removeprefix("http://"))) == cost("--url", url)


def test_what_if() -> None:
    code, said = cost("--tokens-per-second", "400000", "--tokens-per-request", "80", "--utilisation", "0.5", "--json")
    report = json.loads(said)
    assert (code, report["usd_per_million_tokens"]) == (0, pytest.approx(0.006375))
    code, said = cost("--tokens-per-second", "400000", "--tokens-per-request", "80", "--qps", "50")
    assert code == 0
    assert "refuted for requests of 80 tokens" in said
    assert "2.66 of that bill" in said
    assert "at least 2,656 requests/s" in said
    assert all(len(line) <= 120 for line in said.splitlines())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--qps", "5"], "needs --tokens-per-second"),
        (["--gpus", "2"], "Invalid value for --gpus: needs --tokens-per-second"),
        (["--tokens-per-request", "80"], "Invalid value for --tokens-per-request: needs --tokens-per-second"),
        (["--tokens-per-second", "9", "--url", "http://127.0.0.1:1"], "no service is asked with --tokens-per-second"),
        (["--url", "http://127.0.0.1:port"], "Nobody answers at http://127.0.0.1:port/v1/usage"),
        (["--tokens-per-second", "9", "--qps", "5", "--utilisation", "0.5"], "one of --utilisation and --qps"),
        (["--tokens-per-second", "1000", "--qps", "50"], "more than 1 GPU(s)"),
        (["--tokens-per-second", "1000", "--gpu", "h300"], "isn't in the price book"),
        (["--tokens-per-second", "1000", "--prices", "/no/such"], "can't be read"),
        (["--url", "http://127.0.0.1:1"], "Nobody answers at http://127.0.0.1:1/v1/usage"),
    ],
)
def test_what_cannot_be_said(arguments: list[str], said: str) -> None:
    code, output = cost(*arguments)
    assert code != 0
    assert said in " ".join(output.replace("│", " ").split())


def test_a_service_that_answers_something_else(url: str) -> None:
    code, said = cost("--url", f"{url}/odd")
    assert (code, "answers something else than a report" in said) == (1, True)


def test_nothing_served_yet() -> None:
    said = usage_table(usage_report(consumption({}), PRICES))
    assert "0 tokens in 0 requests (- tokens each)" in said
    assert "twentieth" not in said
