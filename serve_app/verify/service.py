"""`embedserve verify --url`: what can be seen of a service's vectors through its API, on texts that no cache has seen."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import httpx
import numpy as np

from serve_app import __version__
from serve_app.engine import self_check
from serve_app.engine.finding import Finding, failures
from serve_app.engine.golden import Golden
from serve_app.engine.known import by_revision, known_checkpoints
from serve_app.types import DEMO_MODEL_ID, Vectors
from serve_app.verify.client import Client, ServiceError, message
from serve_app.verify.prompts import check_prompts
from serve_app.verify.report import Report
from serve_app.verify.tokens import check_end_token, check_truncation

MATES = (
    "Fresh bread from the bakery",
    "銀行の営業時間",
    "关于退货的政策",
    "¿Dónde está la estación de tren más cercana?",
)


class Verification:
    """Checks of one service. `word` is put into texts, so that no earlier answer is given again."""

    def __init__(self, client: Client, against: Golden | None = None, word: str | None = None) -> None:
        self.client = client
        self.report = Report(client.url)
        self._golden = against
        self._word = word or secrets.token_hex(4)
        self._dtype = "bfloat16"
        self._width = 0
        self._query_prompt: str | None = None

    def run(self) -> Report:
        """Make all checks. One that can't be made because the service refuses it has failed."""
        if not self._answers():
            return self.report
        steps: list[Callable[[], Iterator[Finding]]] = [
            self._vectors,
            self._dimensions,
            self._determinism,
            lambda: check_end_token(self.client, self._text("an end")),
            lambda: check_truncation(self.client, self._text("a long text " * 12), self._dtype),
            lambda: check_prompts(self.client, self._text("a question"), self._query_prompt, self._dtype),
            self._names,
            self._scores,
        ]
        for step in steps:
            try:
                self.report.findings += step()
            except ServiceError as error:
                self.report.findings.append(Finding("answers", False, str(error)))
        return self.report

    def _text(self, text: str) -> str:
        return f"{text} {self._word}"

    def _answers(self) -> bool:
        """Whether there is a service with a model; what it says of itself."""
        try:
            status, ready = self.client.get("/ready")
            if status == httpx.codes.SERVICE_UNAVAILABLE:
                self._add("ready", False, f"not ready: {ready.get('reason') or message(ready)}")
                return False
            status, models = self.client.get("/v1/models")
        except ServiceError as error:
            self._add("answers", False, str(error))
            return False
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            self._add("answers", False, "wants an API key: put one into EMBEDSERVE_API_KEY")
            return False
        try:
            model = models["data"][0]
            self.client.model = model["id"]
        except (KeyError, IndexError, TypeError):
            self._add("answers", False, f"GET /v1/models answers {status} and no model: is this an embedding service?")
            return False
        self._width = model.get("dimensions") or 0
        self._query_prompt = (model.get("prompts") or {}).get("query")
        self.report.subject = f"{self.client.model} at {self.client.url}"
        self._golden = self._golden or self._known(model)
        self._add("answers", True, f"serves {self.client.model}, {self._width or 'unknown'} dimensions")
        self._find_dtype()
        return True

    def _known(self, model: dict[str, object]) -> Golden | None:
        """The served checkpoint's known scores: by its commit, or for the demo by the version that it comes with."""
        found = by_revision(str(model["id"]), str(model.get("revision")))
        if found is not None:
            self.report.known = f"{found.model}, by its commit {model['revision']}"
        elif model["id"] == DEMO_MODEL_ID and self.client.get("/version")[1].get("version") == __version__:
            found = next((golden for golden in known_checkpoints() if golden.model == DEMO_MODEL_ID), None)
            self.report.known = f"{DEMO_MODEL_ID}, by the service's version" if found else ""
        return found

    def _find_dtype(self) -> None:
        status, info = self.client.get("/info")
        dtype = info.get("model_dtype") if status == httpx.codes.OK and isinstance(info, dict) else None
        if dtype in ("float16", "fp16", "half"):
            self._add("dtype", False, "float16: the 8B gives NaN for some texts in it. Serve in bfloat16 or float32.")
        elif dtype is None:
            self._add("dtype", None, "the service doesn't say; tolerances are bfloat16's")
        else:
            self._dtype = dtype
            self._add("dtype", True, dtype)

    def _add(self, check: str, passed: bool | None, said: str) -> None:
        self.report.findings.append(Finding(check, passed, said))

    def _vectors(self) -> Iterator[Finding]:
        """Numbers, length, width; the place they're taken from; independence of what else is in the request."""
        second, last, alone = (self._text(text) for text in ("A text", "Another text", "Yet another text"))
        together = self.client.embed([self._text(MATES[0]), second, *map(self._text, MATES[1:]), last])
        yield self_check.check_finite(together)
        yield self_check.check_norm(together)
        if self._width and together.shape[1] != self._width:
            said = f"vectors have {together.shape[1]} dimensions, /v1/models says {self._width}"
            yield Finding("width", False, said)
        if (states := self.client.token_vectors(alone)) is None:
            yield Finding("pooling", None, "needs the route /embed_all")
            # A cache may answer this from the request before, so that it sees less than states do.
            references = [self.client.embed([text])[0] for text in (second, last)]
        else:
            yield self_check.check_pooling(self.client.embed([alone])[0], states, self._dtype)
            references = [self._last_state(text) for text in (second, last)]
        found = [
            self_check.check_batch([vector], reference, self._dtype)
            for vector, reference in zip((together[1], together[-1]), references, strict=True)
        ]
        yield next(iter(failures(found)), found[0])

    def _last_state(self, text: str) -> Vectors:
        """The vector that a text has to have: the last of its tokens' states, computed alone, of length 1."""
        states = self.client.token_vectors(text)
        if states is None:
            raise ServiceError("/embed_all answers now and then")
        return _unit(states[-1])

    def _dimensions(self) -> Iterator[Finding]:
        """Whether cut vectors are the first numbers of the whole ones, of length 1 again."""
        text = self._text("Cut")
        whole = self.client.embed([text])
        widths = sorted({32, whole.shape[1] // 2, whole.shape[1] - 1})
        for width in (each for each in widths if 32 <= each <= whole.shape[1]):
            cut = self.client.embed([text], dimensions=width)
            norm = self_check.check_norm(cut)
            if cut.shape[1] != width:
                yield Finding("dimensions", False, f"{width} dimensions were asked for and {cut.shape[1]} came")
            elif not norm.passed:
                yield Finding("dimensions", False, f"cut to {width}: {norm.said}")
            elif _distance(cut[0], _unit(whole[0, :width])) > 1e-3:
                yield Finding("dimensions", False, f"{width} dimensions aren't the first {width} of the whole vector")
            else:
                continue
            return
        yield Finding("dimensions", True, f"cut to {', '.join(map(str, widths))}: the first ones, of length 1 again")

    def _determinism(self) -> Iterator[Finding]:
        text = self._text("Twice")
        first, again = (self.client.embed([text])[0] for _ in range(2))
        off = _distance(first, again)
        said = f"the same request twice differs by {off:.0e}"
        yield Finding("determinism", off <= self_check.tolerance_of(self._dtype), said)

    def _names(self) -> Iterator[Finding]:
        """Whether models and adapters that aren't there are refused: a base model's vectors in their name would go unnoticed."""
        for model in (f"{self.client.model}-adapter-{self._word}", f"{self.client.model}:adapter-{self._word}"):
            body = {"model": model, "input": ["a"]}
            status, _ = self.client.post("/v1/embeddings", body)
            if status != httpx.codes.NOT_FOUND:
                yield Finding("unknown model", False, f"asked for {model!r}, it answers {status} instead of 404")
                break
        else:
            yield Finding("unknown model", True, "404 for models and adapters that aren't there")
        fields = ("adapter", "adapter_id", "lora", "lora_request")
        kept = []
        for field in fields:
            body = {"model": self.client.model, "input": ["a"], field: f"adapter-{self._word}"}
            if self.client.post("/v1/embeddings", body)[0] == httpx.codes.OK:
                kept.append(field)
        if kept:
            said = f"a request with {kept[0]!r} gets the base model's vectors: the adapter is silently ignored"
            yield Finding("adapter field", False, said)
        else:
            yield Finding(
                "adapter field", True, "a request that names an adapter is refused, not answered by the base model"
            )

    def _scores(self) -> Iterator[Finding]:
        if self._golden is None:
            said = "the service doesn't say that it serves a checkpoint with known scores: compare with --against FILE"
            yield Finding("golden scores", None, said)
        else:
            yield self._golden.check(self.client.embed, self._dtype)


def _unit(vector: Vectors) -> Vectors:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-30), np.float32)


def _distance(a: Vectors, b: Vectors) -> float:
    return float(np.abs(a - b).max())
