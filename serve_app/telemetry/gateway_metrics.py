"""What a gateway counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client import Counter, Histogram

from serve_app.telemetry.families import SECONDS, QueueGauges, cached_tokens, counter, gauge, histogram
from serve_app.types import Stage

RETRIES = ("death", "silence")
REJECTIONS = ("max_wait", "max_gateway_tokens", "max_cluster_tokens", "unavailable")


class GatewayMetrics:
    """The families of a gateway, to be made once in its process. What is known to come is there from the start, with 0.

    `models` are the ids it serves, `dialects` those that they are asked in.
    """

    def __init__(self, models: Sequence[str], dialects: Sequence[str]) -> None:
        self.queue = QueueGauges("gateway")
        self.in_flight = gauge("in_flight_requests", "Embedding requests accepted and not yet answered.")
        self._requests = counter("requests", "Requests by HTTP status.", "dialect", "model", "status")
        self._inputs = counter("inputs", "Inputs of the requests answered with 200.", "dialect", "model")
        self._tokens = counter(
            "prompt_tokens", "Tokens that usage bills: of requests answered with 200.", "dialect", "model"
        )
        self._seconds = histogram(
            "request_duration_seconds",
            "From the arrival of a request to its answer, of those answered with 200.",
            SECONDS,
            "dialect",
            "model",
        )
        stages = histogram(
            "stage_duration_seconds", "The stages of the same; queue includes the wire.", SECONDS, "stage", "model"
        )
        retries = counter("retries", "Inputs sent again, for their replica was lost or fell silent.", "reason")
        rejections = counter("rejections", "Requests refused without any work, by the reason.", "reason")
        self.cancelled = counter("cancelled_inputs", "Inputs given up before they had an answer.")
        lookups = counter("cache_lookups", "Inputs looked for among the vectors that are kept.", "model")
        hits = counter("cache_hits", "Inputs answered with vectors that are kept.", "model")
        self._cache = {model: (lookups.labels(model), hits.labels(model)) for model in models}
        spared = cached_tokens()
        self._spared = {model: spared.labels(model) for model in models}
        self.cache_bytes = gauge("cache_bytes", "Memory that the vectors take which are kept.")
        self.retries: dict[str, Counter] = {reason: retries.labels(reason) for reason in RETRIES}
        self._rejections = {reason: rejections.labels(reason) for reason in REJECTIONS}
        self._by_status: dict[tuple[str, str, int], Counter] = {}
        self._stages = {(stage, model): stages.labels(stage.value, model) for stage in Stage for model in models}
        self._answered: dict[tuple[str, str], tuple[Counter, Counter, Histogram]] = {}
        for dialect in dialects:
            for model in models:
                self._of(dialect, model)
                self._status(dialect, model, 200)

    def rejected(self, reason: str) -> None:
        """A request was refused, for one of `REJECTIONS`: a bound of admission, or `unavailable` where the service is shutting down or
        its deployment has failed."""
        self._rejections[reason].inc()

    def looked_up(self, model: str, inputs: int, found: int) -> None:
        """So many of the inputs had a vector that was kept."""
        lookups, hits = self._cache[model]
        lookups.inc(inputs)
        hits.inc(found)

    def spared(self, model: str, tokens: int) -> None:
        """A request is about to get its vectors, and so many of its tokens weren't sent for it."""
        self._spared[model].inc(tokens)

    def ended(self, dialect: str, model: str, status: int) -> None:
        """A request is about to get its answer, or its client has left. `model` is "" where none was found out."""
        self._status(dialect, model, status).inc()

    def answered(
        self, dialect: str, model: str, inputs: int, tokens: int, seconds: float, stage_seconds: Mapping[Stage, float]
    ) -> None:
        """A request is about to get its vectors, `tokens` billed, `seconds` after it came."""
        inputs_total, tokens_total, duration = self._answered.get((dialect, model)) or self._of(dialect, model)
        inputs_total.inc(inputs)
        tokens_total.inc(tokens)
        duration.observe(seconds)
        for stage, taken in stage_seconds.items():
            self._stages[stage, model].observe(taken)

    def _of(self, dialect: str, model: str) -> tuple[Counter, Counter, Histogram]:
        key = (dialect, model)
        children = (self._inputs.labels(*key), self._tokens.labels(*key), self._seconds.labels(*key))
        self._answered[key] = children
        return children

    def _status(self, dialect: str, model: str, status: int) -> Counter:
        child = self._by_status.get((dialect, model, status))
        if child is None:
            child = self._requests.labels(dialect, model, str(status))
            self._by_status[dialect, model, status] = child
        return child
