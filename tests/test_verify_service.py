"""`embedserve verify --url`: it finds what a client of a service wouldn't notice, and names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from serve_app import __version__
from serve_app.api.app import build_app
from serve_app.api.models import Models
from serve_app.engine import known
from serve_app.engine.finding import failures
from serve_app.engine.golden import Golden
from serve_app.errors import ModelNotFoundError
from serve_app.types import DEMO_MODEL_ID, ServedModel
from serve_app.verify.client import Client
from serve_app.verify.local import recorded
from serve_app.verify.report import Report
from serve_app.verify.service import Verification
from tests.defective_service import DefectiveService
from tests.demo_service import DemoService
from tests.in_process import Bridge
from tests.reference import engine
from tests.running import RunningService


def verified(service: DemoService, against: Golden | None = None) -> Report:
    with Client("http://test/v1", transport=Bridge(build_app(service))) as client:
        return Verification(client, against, word="seeded").run()


def answering(handler: Callable[[httpx.Request], httpx.Response]) -> Report:
    with Client("http://test", transport=httpx.MockTransport(handler)) as client:
        return Verification(client).run()


def test_nothing_is_wrong_with_a_right_service() -> None:
    report = verified(DefectiveService(), recorded(engine()))
    assert report.passed
    assert [finding.check for finding in report.findings if finding.passed] == [
        "answers",
        "dtype",
        "finite",
        "norm",
        "pooling",
        "batch invariance",
        "dimensions",
        "determinism",
        "end token",
        "truncation",
        "instruction",
        "prompts",
        "unknown model",
        "adapter field",
        "golden scores",
    ]
    assert len(report.findings) == 15


@pytest.mark.parametrize(
    ("defect", "check", "said"),
    [
        ("mean pooling", "pooling", "looks like the mean of all tokens"),
        ("off-by-one last token", "pooling", "looks like the last token but one"),
        ("no end token", "end token", "not with <|endoftext|>"),
        ("no end token in vectors", "end token", "the end token may be missing"),
        ("cut texts lose the end token", "truncation", "cut texts lose the token"),
        ("space after the prompt", "instruction", "another vector than 'Instruct: …"),
        ("prompt ignored", "instruction", "it doesn't reach the model"),
        ("prompt before documents", "end token", "something may be put before it"),
        ("not normalised", "norm", "vectors don't have length 1"),
        ("cut but not renormalised", "dimensions", "cut to 32: vectors don't have length 1"),
        ("cut at the wrong end", "dimensions", "aren't the first 32 of the whole vector"),
        ("batch leakage", "batch invariance", "depends on what is computed with it"),
    ],
)
def test_a_defect_is_named(defect: str, check: str, said: str) -> None:
    wrong = {finding.check: finding.said for finding in failures(verified(DefectiveService(defect)).findings)}
    assert said in wrong[check]


def test_cosines_alone_would_not_show_a_missing_renormalisation() -> None:
    """Why this belongs into `verify`: a suite that ranks by cosine can't see it."""
    wrong = failures(verified(DefectiveService("cut but not renormalised"), recorded(engine())).findings)
    assert [finding.check for finding in wrong] == ["dimensions"]


def test_float16_is_a_finding() -> None:
    [wrong] = failures(verified(DefectiveService(dtype="float16")).findings)
    assert (wrong.check, wrong.said) == (
        "dtype",
        "float16: the 8B gives NaN for some texts in it. Serve in bfloat16 or float32.",
    )


def test_any_name_for_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Models, "find", lambda self, name: self.served[0])
    [wrong] = failures(verified(DefectiveService()).findings)
    assert wrong.check == "unknown model"
    assert wrong.said == "asked for 'embedserve/demo-adapter-seeded', it answers 200 instead of 404"


def test_only_an_adapter_that_is_named_after_its_base(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(self: Models, name: str) -> ServedModel:
        if name.partition(":")[0] != DEMO_MODEL_ID:
            raise ModelNotFoundError("no", "model")
        return self.served[0]

    monkeypatch.setattr(Models, "find", find)
    [wrong] = failures(verified(DefectiveService()).findings)
    assert "'embedserve/demo:adapter-seeded'" in wrong.said


def test_scores_of_another_model() -> None:
    golden = recorded(engine())
    golden.scores[0, 0] += 0.02
    [wrong] = failures(verified(DefectiveService(), golden).findings)
    assert wrong.check == "golden scores"
    assert wrong.said.startswith("wrong by 0.0200: [[")


def test_what_a_service_says_of_itself_finds_its_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "FOLDER", tmp_path)
    right = recorded(engine())
    assert "--against" in verified(DefectiveService()).findings[-1].said
    fields = {name: getattr(right, name) for name in right.__slots__}
    Golden(**{**fields, "model": DEMO_MODEL_ID, "revisions": ["c0ffee"]}).write(tmp_path / "demo.json")
    report = verified(DefectiveService(revision="c0ffee"))
    assert report.known == "embedserve/demo, by its commit c0ffee"
    assert report.findings[-1].passed
    assert verified(DefectiveService(revision="decaf")).known == ""  # by its name alone it isn't known
    monkeypatch.setattr(DefectiveService, "version", __version__)
    assert verified(DefectiveService()).known == "embedserve/demo, by the service's version"


def test_services_that_can_not_be_asked() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    def guarded(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200 if request.url.path == "/ready" else 401, json={})

    def loading(request: httpx.Request) -> httpx.Response:
        return httpx.Response(503, json={"status": "not ready", "reason": "there is no replica"})

    for handler, said in (
        (refuse, "nobody answers at http://test/ready (ConnectError: refused)"),
        (guarded, "wants an API key: put one into EMBEDSERVE_API_KEY"),
        (
            lambda request: httpx.Response(404, text="?"),
            "GET /v1/models answers 404 and no model: is this an embedding service?",
        ),
        (loading, "not ready: there is no replica"),
    ):
        report = answering(handler)
        assert [finding.said for finding in report.findings] == [said]
        assert not report.passed


def test_a_service_with_the_openai_route_alone() -> None:
    """What can't be asked is said not to have been; the rest is checked all the same."""
    app = Bridge(build_app(DefectiveService("cut but not renormalised")))

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path in ("/embed_all", "/tokenize", "/info", "/ready", "/version"):
            return httpx.Response(404, json={})
        return app.handle_request(httpx.Request(request.method, request.url, content=request.content))

    report = answering(handler)
    assert [finding.check for finding in failures(report.findings)] == ["dimensions"]
    skipped = {finding.check for finding in report.findings if finding.passed is None}
    assert skipped == {"dtype", "pooling", "end token", "golden scores"}


@pytest.mark.cluster
def test_the_running_service(service: RunningService) -> None:
    with Client(service.url) as client:
        report = Verification(client, recorded(engine())).run()
    assert report.passed, report.as_table()
    assert not [finding.check for finding in report.findings if finding.passed is None]
