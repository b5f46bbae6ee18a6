"""What an Embedder counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import Gauge

from serve_app.telemetry.families import INPUTS, RATIO, TOKENS, QueueGauges, cached_tokens, counter, gauge, histogram


class EmbedderMetrics:
    """The families of an Embedder, to be made once in its process. What is known to come is there from the start, with 0.

    `replica` is its id, only on gauges, which vanish with it. `peak_flops` is the best of what it computes on, None for unknown: its
    families are absent then. `flops` is what `inputs` of `tokens` in all, and the sum of the squares of their lengths, take.
    """

    def __init__(
        self, model: str, replica: str, flops: Callable[[int, int, int], float], peak_flops: float | None
    ) -> None:
        self.queue = QueueGauges("embedder")
        self._flops = flops
        self._peak_flops = peak_flops
        self._replica = replica
        computed = counter("computed_tokens", "Tokens that engines have computed.", "model")
        self._computed, self._cached = computed.labels(model), cached_tokens().labels(model)
        self._padding = counter("padding_tokens", "Tokens computed only to fill batches up: none, by design.")
        self._nonfinite = counter(
            "nonfinite_outputs", "Inputs whose vectors were withheld, since they had NaN or infinity."
        )
        self._model_flops = counter("model_flops", "Floating-point operations that the embedding took.")
        self._busy = counter("device_busy_seconds", "Time in which engines computed.")
        self._batch_tokens = histogram("batch_tokens", "Tokens of a batch.", TOKENS)
        self._batch_inputs = histogram("batch_inputs", "Inputs of a batch.", INPUTS)
        self._batch_fill = histogram("batch_fill_ratio", "Tokens of a batch over its budget.", RATIO)
        self._busy_ratio = self._gauge("device_busy_ratio", "Share of the last seconds in which the engine computed.")
        if peak_flops is not None:
            gauge("device_peak_flops", "FLOP/s that the devices could compute at best.").set(peak_flops)
            self._mfu = self._gauge(
                "mfu_ratio", "FLOP/s of the last seconds over the device's best (model FLOPs utilisation)."
            )
        self._memory: Callable[[str], Gauge] | None = None
        self._total_flops = 0.0

    def batch(self, lengths: list[int], reused: list[int], repeated: int, budget: int, nonfinite: int) -> None:
        """A batch of inputs of these `lengths` was computed, but for the `reused` tokens that each begins with; `budget` tokens
        fit in one. Inputs equal to some of these, `repeated` tokens in all, were answered with it."""
        inputs, cached = len(lengths), sum(reused)
        tokens = sum(lengths) - cached
        # The square stands for the positions that tokens attend to: all of them, less those of tokens that were there.
        squared = sum([length * length for length in lengths])
        flops = self._flops(inputs, tokens, squared - sum([n * n for n in reused]))
        self._total_flops += flops
        self._computed.inc(tokens)
        self._cached.inc(cached + repeated)
        self._model_flops.inc(flops)
        self._batch_tokens.observe(tokens)
        self._batch_inputs.observe(inputs)
        self._batch_fill.observe(min(1.0, tokens / budget))
        if nonfinite:
            self._nonfinite.inc(nonfinite)

    def started(self, load_seconds: float, warmup_seconds: float) -> None:
        """The model was read in `load_seconds` and then warmed up."""
        self._gauge("load_seconds", "What reading and checking the model took.").set(load_seconds)
        self._gauge("warmup_seconds", "What warming the engine up took.").set(warmup_seconds)

    def busy(self, seconds: float) -> None:
        """The engine has computed for so much more time."""
        self._busy.inc(seconds)

    @property
    def total_flops(self) -> float:
        """FLOPs so far."""
        return self._total_flops

    def recently(self, busy_ratio: float, flops_per_second: float) -> None:
        """How the last seconds were."""
        self._busy_ratio.set(busy_ratio)
        if self._peak_flops is not None:
            self._mfu.set(flops_per_second / self._peak_flops)

    def memory(self, bytes_by_kind: Mapping[str, int]) -> None:
        """The device's memory."""
        if self._memory is None and bytes_by_kind:
            family = gauge("replica_gpu_memory_bytes", "Memory of the replica's GPU.", "replica", "kind")
            self._memory = lambda kind: family.labels(self._replica, kind)
        for kind, size in bytes_by_kind.items():
            assert self._memory is not None
            self._memory(kind).set(size)

    def _gauge(self, name: str, help_text: str) -> Gauge:
        return gauge(f"replica_{name}", help_text, "replica").labels(self._replica)
