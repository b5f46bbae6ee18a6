"""What a gateway counts of each API key, by its name: those come from the operator, so there are not many."""

from __future__ import annotations

from prometheus_client import Counter

from serve_app.telemetry.families import counter


class KeyMetrics:
    """The families, to be made once in a process."""

    def __init__(self) -> None:
        self._requests = counter("key_requests", "Requests answered with vectors, by API key.", "key", "model")
        self._inputs = counter("key_inputs", "Inputs of the same.", "key", "model")
        self._tokens = counter("key_prompt_tokens", "Tokens of the same, as billed.", "key", "model")
        self._refusals = counter("key_refusals", "Requests refused for a limit of their API key.", "key", "limit")
        self._alone = counter("limits_without_redis", "Limits decided by one gateway, since Redis was away.")
        self._unkept = counter("ledger_failures", "Times that the ledger's store couldn't be read or written.")
        self._billed: dict[tuple[str, str], tuple[Counter, Counter, Counter]] = {}

    def billed(self, key: str, model: str, inputs: int, tokens: int) -> None:
        """A request is about to get its vectors."""
        children = self._billed.get((key, model))
        if children is None:
            children = (
                self._requests.labels(key, model),
                self._inputs.labels(key, model),
                self._tokens.labels(key, model),
            )
            self._billed[key, model] = children
        children[0].inc()
        children[1].inc(inputs)
        children[2].inc(tokens)

    def refused(self, key: str, limit: str) -> None:
        """A request was refused for its key's `requests`, `tokens` or `concurrent`."""
        self._refusals.labels(key, limit).inc()

    def ledger_failed(self) -> None:
        """The ledger's store couldn't be reached."""
        self._unkept.inc()

    def decided_alone(self) -> None:
        """Redis wasn't there to be asked."""
        self._alone.inc()
