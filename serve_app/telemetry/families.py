"""How metric families are made here: names, units, buckets. Labels take few values, and none comes from a client."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

# From 1 ms on: a short input on a GPU takes less than ten. The last ones are where requests of 300,000 tokens end.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
TOKENS = tuple(float(2**power) for power in range(4, 18))
INPUTS = tuple(float(2**power) for power in range(11))
RATIO = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


def counter(name: str, help_text: str, *labels: str) -> Counter:
    """`embedserve_{name}_total`."""
    return Counter(f"embedserve_{name}", help_text, labels, registry=None)


def histogram(name: str, help_text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
    """`embedserve_{name}`; `buckets` are upper bounds."""
    return Histogram(f"embedserve_{name}", help_text, labels, buckets=buckets, registry=None)


def gauge(name: str, help_text: str, *labels: str) -> Gauge:
    """`embedserve_{name}`: the sum over the living processes."""
    return Gauge(f"embedserve_{name}", help_text, labels, registry=None, multiprocess_mode="livesum")


def peak(name: str, help_text: str, *labels: str) -> Gauge:
    """`embedserve_{name}`: the largest of the living processes."""
    return Gauge(f"embedserve_{name}", help_text, labels, registry=None, multiprocess_mode="livemax")


def cached_tokens() -> Counter:
    """Counted by whoever spares them: engines and gateways."""
    return counter(
        "cached_tokens",
        "Tokens that needn't be computed: their result was there, or was on its way for others.",
        "model",
    )


class QueueGauges:
    """What waits in the queues of one `component`, gateway or embedder."""

    def __init__(self, component: str) -> None:
        self._inputs = gauge("queued_inputs", "Inputs that wait.", "component").labels(component)
        self._tokens = gauge("queued_tokens", "Tokens that wait.", "component").labels(component)
        self._age = peak("queue_oldest_age_seconds", "The wait of the input that waits longest.", "component").labels(
            component
        )

    def set(self, inputs: int, tokens: int, oldest_seconds: float) -> None:
        """So it is now."""
        self._inputs.set(inputs)
        self._tokens.set(tokens)
        self._age.set(oldest_seconds)


def set_build_info(**what: str) -> None:
    """`embedserve_build_info`: 1, labelled with what runs."""
    peak("build_info", "What runs: always 1.", *what).labels(*what.values()).set(1)
