"""Targets of `embedserve eval`, through the real SDKs, against servers on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from serve_app.api.app import build_app
from serve_app.api.prompts import DEFAULT_PROMPTS, prompt_for
from serve_app.evals.cache import Cache
from serve_app.evals.encoder import Role
from serve_app.evals.target import Target, TargetError
from serve_app.evals.target_encoder import PROBE, TargetEncoder
from serve_app.evals.target_kinds import backend_of
from tests.demo_service import listening
from tests.hosted import WIDTH, Hosted, vector
from tests.in_process import MODEL, InProcess
from tests.in_process import vector as our_vector
from tests.reference import expected

TEXTS = [f"text number {number}" for number in range(20)]
KEY = "sk-test-4711-0815-secret"
Make = Callable[..., TargetEncoder]


@pytest.fixture
def make() -> Iterator[Make]:
    """An encoder of what the command line would say; with a cache in memory unless one is given."""
    caches: list[Cache] = []
    encoders: list[TargetEncoder] = []

    def made(text: str, cache: Cache | None = None, **environment: str) -> TargetEncoder:
        target = Target.of(text, environment)
        if cache is None:
            caches.append(cache := Cache(None))
        encoders.append(TargetEncoder(target, backend_of(target), cache))
        return encoders[-1]

    yield made
    for each in encoders:
        each.close()
    for each in caches:
        each.__exit__(None, None, None)


@pytest.fixture
def ours() -> Iterator[tuple[str, InProcess]]:
    service = InProcess()
    with listening(build_app(service)) as url:
        yield url, service


def test_ours_gets_instructions(ours: tuple[str, InProcess], make: Make) -> None:
    url, service = ours
    encoder = make(f"ours={url},batch=8")
    encoder.open()
    found = encoder.encode(TEXTS, Role.QUERY, "Find the number")
    np.testing.assert_allclose(found, [our_vector(text, 64) for text in TEXTS], atol=1e-6)
    for role in Role:
        encoder.encode(TEXTS[:1], role)  # nothing before it, so that one vector does for all
    prompts = [job.prompt for job, _ in service.jobs]
    assert prompts == [None, *[prompt_for("Find the number")] * 3, None]
    assert sorted(len(job.texts or []) for job, _ in service.jobs) == [1, 1, 4, 8, 8]
    use = encoder.use(0.1)
    assert (use.model, use.dimensions, use.texts, use.cached, use.requests) == (MODEL, 64, 24, 3, 4)
    assert use.described["revision"] == "abc"
    assert use.tokens == 3 * 21
    assert use.usd == pytest.approx(3 * 21 * 0.1 / 1e6)
    assert use.latency_p50 is not None
    assert use.latency_p95 is not None
    assert 0 < use.latency_p50 <= use.latency_p95 <= use.seconds


def test_other_servers_get_none_unless_they_are_to_have_the_prefix(make: Make) -> None:
    with Hosted.running() as hosted:
        plain, prefixed = make(f"a=openai:{hosted.url}"), make(f"a=openai:{hosted.url},instructions=prefix")
        plain.open()
        prefixed.open()
        np.testing.assert_allclose(plain.encode(["x"], Role.QUERY, "Find it"), [vector("x")], atol=1e-6)
        with_prefix = prefixed.encode(["x"], Role.QUERY, "Find it")
        np.testing.assert_allclose(with_prefix, [vector("Instruct: Find it\nQuery:x")], atol=1e-6)
        np.testing.assert_allclose(prefixed.encode(["x"], Role.DOCUMENT), [vector("x")], atol=1e-6)
    assert plain.use(None).model == "words-1"  # the only one that is served
    assert "without them" in plain.use(None).notes[0]
    assert "Qwen3-Embedding's model card" in prefixed.use(None).notes[0]


def test_what_the_environment_says_of_an_openai_account_goes_to_no_other_server(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("API_KEY", KEY), ("ORG_ID", "org-4711"), ("PROJECT_ID", "proj-0815")):
        monkeypatch.setenv(f"OPENAI_{name}", value)
    with Hosted.running() as hosted:
        for target in (f"a=openai:{hosted.url}", f"a={hosted.url}"):
            make(target).open()
        sent = " ".join(value for headers in hosted.headers for value in headers.values())
    assert len(hosted.headers) == 2
    assert not [secret for secret in (KEY, "org-4711", "proj-0815") if secret in sent]


def test_cohere_gets_the_input_type_of_the_role(make: Make) -> None:
    with Hosted.running(key=KEY) as hosted:
        encoder = make(f"c=cohere:words-1,url={hosted.url}/v2,key-env=K", K=KEY)
        encoder.open()
        for role in Role:
            np.testing.assert_allclose(encoder.encode(["x y"], role, "Find it"), [vector("x y")], atol=1e-6)
        many = encoder.encode([f"w{number}" for number in range(200)], Role.DOCUMENT)
        assert many.shape == (200, WIDTH)
        types = [body["input_type"] for body in hosted.bodies]
        assert types[:4] == [
            "search_document",
            "search_query",
            "search_document",
            "clustering",
        ]  # the first is the probe
        assert max(len(body["texts"]) for body in hosted.bodies) == 96
    use = encoder.use(0.1)
    assert (
        use.tokens == 2 * 3 * 2 + 2 * 200
    )  # two to a word; x y under three types, as documents and for similarity only once
    assert "input_type" in use.notes[0]


def test_our_own_cohere_dialect_is_such_a_server(ours: tuple[str, InProcess], make: Make) -> None:
    url, service = ours
    encoder = make(f"c=cohere:{MODEL},url={url},batch=8")
    encoder.open()
    np.testing.assert_allclose(encoder.encode(TEXTS, Role.QUERY), [our_vector(t, 64) for t in TEXTS], atol=1e-6)
    assert service.jobs[-1][0].prompt == DEFAULT_PROMPTS["query"]


def test_kept_vectors_cost_no_request(make: Make, tmp_path: Path) -> None:
    with Hosted.running() as hosted, Cache(tmp_path) as cache:
        first = make(f"a=openai:{hosted.url}", cache)
        first.open()
        vectors = first.encode(TEXTS, Role.QUERY)
        hosted.bodies.clear()
        again = make(f"a=openai:{hosted.url}", cache)
        again.open()
        np.testing.assert_array_equal(again.encode(TEXTS[::-1], Role.DOCUMENT), vectors[::-1])
        assert [body["input"] for body in hosted.bodies] == [[PROBE]]
        again.encode([*TEXTS, "new", "new"], Role.QUERY)
        assert [body["input"] for body in hosted.bodies] == [[PROBE], ["new"]]
    before, after = first.use(1.0), again.use(1.0)
    assert (before.requests, before.cached) == (1, 0)
    assert (after.requests, after.cached, after.texts) == (1, 40, 42)
    assert after.tokens == before.tokens + 1 == 3 * 20 + 1  # what the texts cost, whenever it was


def test_another_model_behind_the_same_name_is_noticed(make: Make, tmp_path: Path) -> None:
    def retrained(body: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        data = [{"object": "embedding", "index": i, "embedding": [0.0, 1.0]} for i in range(len(body["input"]))]
        return 200, orjson.dumps({"object": "list", "data": data, "model": "words-1"}), {}

    with Hosted.running() as hosted, Cache(tmp_path) as cache:
        for trouble in (lambda body: None, retrained):
            hosted.trouble = trouble
            encoder = make(f"a=openai:{hosted.url}", cache)
            encoder.open()
            encoder.encode(TEXTS, Role.QUERY)
            assert encoder.use(None).cached == 0
    assert "no token counts" in encoder.use(1.0).notes[-1]
    assert encoder.use(1.0).usd is None


def test_429_is_retried_by_the_sdk(make: Make) -> None:
    with Hosted.running() as hosted:
        refused: list[int] = []

        def trouble(body: dict[str, Any]) -> tuple[int, bytes, dict[str, str]] | None:
            refused.append(len(refused))
            return (429, b'{"error": {"message": "slow down"}}', {"retry-after-ms": "1"}) if len(refused) % 3 else None

        hosted.trouble = trouble
        encoder = make(f"a=openai:{hosted.url},model=words-1")
        encoder.open()
        assert encoder.encode(TEXTS, Role.QUERY).shape == (20, WIDTH)
    assert len(refused) == 6


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("http://127.0.0.1:9", "a: http://127.0.0.1:9 can't be reached"),
        ("cohere:m,url=http://127.0.0.1:9", "a: http://127.0.0.1:9 can't be reached"),
        ("local:/there/is/no/such/folder", "can't be loaded"),
    ],
)
def test_what_is_not_there_is_said(what: str, said: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.evals.openai_target.RETRIES", 0)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    encoder = make(f"a={what}")
    with pytest.raises(TargetError) as error:
        encoder.open()
    assert said in str(error.value)
    assert error.value.gone


@pytest.mark.parametrize("what", ["openai:{url},model=words-1", "cohere:words-1,url={url}"])
def test_refusals_say_what_to_do_and_repeat_no_key(what: str, make: Make) -> None:
    wrong = "sk-wrong-0123456789"
    with Hosted.running(key=KEY) as hosted:
        with pytest.raises(TargetError, match=r"a: .* refuses a request without a key: .* key-env=NAME") as error:
            make("a=" + what.format(url=hosted.url)).open()
        assert error.value.gone
        with pytest.raises(TargetError, match=r"a: .* refuses the key in K \(status 401\)") as error:
            make("a=" + what.format(url=hosted.url) + ",key-env=K", K=wrong).open()
        assert "sk-wro" not in str(error.value)
        other = what.replace("words-1", "words-2").format(url=hosted.url)
        with pytest.raises(TargetError, match=r"status 404: .*words-2") as error:
            make(f"a={other},key-env=K", K=KEY).open()
        assert error.value.gone


def answering(*vectors: list[float]) -> Callable[[dict[str, Any]], tuple[int, bytes, dict[str, str]]]:
    """The probe gets [1, 0], and everything else these vectors."""

    def trouble(body: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        rows = [[1.0, 0.0]] if body["input"] == [PROBE] else list(vectors)
        data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
        return 200, orjson.dumps({"object": "list", "data": data}).replace(b'"nan"', b"NaN"), {}

    return trouble


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ([[0.0, 0.0], [1.0, 0.0]], "a: a vector is zero"),
        ([["nan", 0.0], [1.0, 0.0]], "a: a vector has numbers in it that aren't finite"),
        ([[1.0, 0.0]], "a: asked for 2 vectors"),
        ([[1.0, 0.0], [1.0]], "a: its vectors aren't all of the same length"),
        ([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], "a: its vectors had 2 dimensions at first, and now 3"),
    ],
)
def test_vectors_that_nothing_can_be_measured_with(vectors: list[list[Any]], said: str, make: Make) -> None:
    with Hosted.running(trouble=answering(*vectors)) as hosted:
        encoder = make(f"a=openai:{hosted.url},model=words-1")
        encoder.open()
        with pytest.raises(TargetError, match=said):
            encoder.encode(["x", "y"], Role.QUERY)


def test_vectors_get_length_one(make: Make) -> None:
    with Hosted.running(trouble=answering([3.0, 4.0])) as hosted:
        encoder = make(f"a=openai:{hosted.url},model=words-1")
        encoder.open()
        found = encoder.encode(["x"], Role.QUERY)
    np.testing.assert_allclose(found, [[0.6, 0.8]])
    assert found.dtype == np.float32


def test_what_was_answered_before_a_failure_is_kept(make: Make, tmp_path: Path) -> None:
    def trouble(body: dict[str, Any]) -> tuple[int, bytes, dict[str, str]] | None:
        return (400, b'{"error": {"message": "too long"}}', {}) if "text number 13" in body["input"] else None

    with Hosted.running(trouble=trouble) as hosted, Cache(tmp_path) as cache:
        encoder = make(f"a=openai:{hosted.url},model=words-1,batch=1", cache)
        encoder.open()
        with pytest.raises(TargetError, match=r"a: .* answers status 400: too long") as error:
            encoder.encode(TEXTS, Role.QUERY)
        assert not error.value.gone
        answered = {body["input"][0] for body in hosted.bodies} - {PROBE, "text number 13"}
        hosted.trouble = lambda body: None
        hosted.bodies.clear()
        encoder.encode(TEXTS, Role.QUERY)
    assert {body["input"][0] for body in hosted.bodies} == set(TEXTS) - answered
    assert len(answered) >= 9


def test_tfidf_finds_the_text_with_the_same_letters(make: Make) -> None:
    encoder = make("base=tfidf")
    encoder.open()
    documents = ["the cat sat on the mat", "stock prices fell", "猫坐在垫子上", "株価が下がった"]
    encoder.prepare(documents)
    found = encoder.encode(documents, Role.DOCUMENT)
    queries = encoder.encode(["a cat on a mat", "price of stock", "垫子上的猫", "Ω"], Role.QUERY)
    assert (queries @ found.T).argmax(axis=1)[:3].tolist() == [0, 1, 2]
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(queries[3] @ found.T, 0)  # nothing in common with anything
    use = encoder.use(None)
    assert (use.requests, use.tokens, use.usd) == (0, 0, None)
    assert "baseline" in use.notes[0]


def test_a_local_model_has_its_own_prompts_and_takes_instructions_in_their_form(make: Make, demo_folder: Path) -> None:
    encoder = make(f"here=local:{demo_folder}")
    encoder.open()
    ours = [f"Instruct: Find it\nQuery:{text}" for text in TEXTS[:3]]
    # sentence-transformers computes in the type that the weights are stored in, our engine on a CPU in float32.
    for found, wanted in (
        (encoder.encode(TEXTS[:3], Role.QUERY, "Find it"), expected(ours)),
        (encoder.encode(TEXTS[:3], Role.DOCUMENT), expected(TEXTS[:3])),
    ):
        assert (np.sum(found * wanted, axis=1) > 0.9995).all()
    assert (np.sum(expected(ours) * expected(TEXTS[:3]), axis=1) < 0.99).all()
    assert encoder.use(None).described["dtype"].startswith("torch.")
    [cut, _] = encoder.use(None).notes  # the other: it tells no tokens
    assert "tokens are cut" in cut


def test_a_plain_url_of_another_server_gets_no_instruction_and_says_so(make: Make) -> None:
    with Hosted.running() as hosted:
        for target in (f"a={hosted.url}", f"a={hosted.url},model=words-1"):
            encoder = make(target)
            encoder.open()
            np.testing.assert_allclose(encoder.encode(["x"], Role.QUERY, "Find it"), [vector("x")], atol=1e-6)
            assert encoder.use(None).notes[0].startswith("It isn't embedserve, so texts went without instructions")
    assert all("instruction" not in body for body in hosted.bodies)


@pytest.mark.parametrize(
    "what", ["{url}", "{url},model=words-1", "openai:{url},model=words-1", "cohere:words-1,url={url}"]
)
@pytest.mark.parametrize("page", [b"<html>", b"[]", b'{"data": 3}', b"{}"])
def test_a_reply_that_is_no_reply_of_the_api_is_the_targets_failure(what: str, page: bytes, make: Make) -> None:
    with Hosted.running(trouble=lambda _: (200, page, {})) as hosted, pytest.raises(TargetError, match=r"^a: http"):
        make("a=" + what.format(url=hosted.url)).open()


def test_cohere_is_told_to_cut_nothing(make: Make) -> None:
    with Hosted.running() as hosted:
        make(f"c=cohere:words-1,url={hosted.url}").open()
        assert hosted.bodies[0]["truncate"] == "NONE"
