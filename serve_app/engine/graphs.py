"""CUDA graphs: a small batch is launched by one call, where launching its kernels one by one takes longer than they run.

A graph repeats the same kernels on the same memory. So there is one for each `Bucket`, with buffers of its own that a batch is
copied to, padded, and its vectors are read from. Inputs that pad are sequences of their own: no other sees them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from serve_app.engine.buckets import BUCKETS, Bucket, bucket_of
from serve_app.engine.model import Model
from serve_app.engine.packing import lay_out
from serve_app.engine.transfer import cut, staged

logger = logging.getLogger(__name__)

GRAPH_BYTES = 256 * 2**20
"""Memory that all graphs together may take."""
_COSINE = 0.999  # between the vectors of a graph and those of the same kernels launched one by one

Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
"""Records what a function does: what repeats it, and the result that it writes to each time."""


@dataclass(frozen=True, slots=True)
class _Graph:
    """`inputs` (int64) holds a batch as `staged` does, `vectors` (float32 `[inputs, hidden]`) what `replay` makes of it."""

    inputs: Tensor
    vectors: Tensor
    replay: Callable[[], None]


class Graphs:
    """The graphs of a model; none before `prepare`, and none where it failed. For one thread at a time."""

    def __init__(self, model: Model, capture: Capture | None = None) -> None:
        """`capture` is `CudaCapture`, if nothing else is given."""
        self._model = model
        self._capture = capture
        self._graphs: dict[Bucket, _Graph] = {}
        self._buckets: tuple[Bucket, ...] = ()

    def __len__(self) -> int:
        return len(self._graphs)

    def prepare(self, buckets: Sequence[Bucket] = BUCKETS, memory: int = GRAPH_BYTES) -> None:
        """Record and check a graph for each of the rising `buckets`, from the largest on while they stay within `memory` bytes.

        Where that fails there are no graphs, and the log says so.
        """
        try:
            capture = self._capture or CudaCapture(self._model.device)
            before = reserved(self._model.device)
            for bucket in sorted(buckets, reverse=True):
                if reserved(self._model.device) - before > memory:
                    logger.info("CUDA graphs: %d of %d fit into their memory", len(self._graphs), len(buckets))
                    break
                graph = self._record(bucket, capture)
                if not self._agrees(bucket, graph):
                    raise RuntimeError(f"a graph for {bucket} gives other vectors than its kernels do")
                self._graphs[bucket] = graph
        except (RuntimeError, ValueError) as error:
            self._graphs.clear()
            logger.warning("CUDA graphs are off: %s: %s", type(error).__name__, str(error).partition("\n")[0])
        self._buckets = tuple(sorted(self._graphs))

    def forward(self, token_ids: Sequence[npt.NDArray[np.integer]]) -> Tensor | None:
        """As `Model.forward` of these inputs, without prefixes; None where no graph takes them."""
        bucket = bucket_of(sum(map(len, token_ids)), len(token_ids), self._buckets)
        return None if bucket is None else _run(self._graphs[bucket], bucket, token_ids)

    def _record(self, bucket: Bucket, capture: Capture) -> _Graph:
        ids = [np.zeros(size, np.int64) for size in _even(bucket)]
        arrays, placed = lay_out(ids)
        buffer, places = staged(arrays, pinned=False)
        inputs = buffer.to(self._model.device)
        batch = placed(cut(inputs, places))
        # The kernel is prepared for the longest sequence that may come.
        batch.whole.longest = batch.whole.longest_keys = bucket.tokens
        replay, vectors = capture(lambda: self._model.forward(batch))
        return _Graph(inputs, vectors, replay)

    def _agrees(self, bucket: Bucket, graph: _Graph) -> bool:
        random = np.random.default_rng(bucket.tokens)
        sizes = _even(bucket)
        if len(sizes) > 1:  # leave the last to padding
            sizes = sizes[:-1]
        ids = [random.integers(0, self._model.config.vocab_size, size) for size in sizes]
        expected = self._model.forward(self._model.pack(ids))
        return bool(((_run(graph, bucket, ids) * expected).sum(dim=1) >= _COSINE).all())


class CudaCapture:
    """Records CUDA graphs, all in one pool of memory, since only one of them runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._aside = torch.cuda.Stream(device)

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """See `Capture`."""
        with torch.cuda.device(self._device):
            # First on another stream, as torch asks for: what is done only once mustn't be recorded.
            self._aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._aside):
                run()
            torch.cuda.current_stream().wait_stream(self._aside)
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the device meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                vectors = run()
        return graph.replay, vectors


def reserved(device: torch.device) -> int:
    """Memory that torch holds on the device and can't give back.

    What it keeps for later goes first: recording does the same, so that else the graphs would seem to take less than nothing.
    """
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved(device)


def _run(graph: _Graph, bucket: Bucket, token_ids: Sequence[npt.NDArray[np.integer]]) -> Tensor:
    arrays, _ = lay_out(bucket.pad(token_ids))
    filled, _ = staged(arrays, pinned=graph.inputs.device.type == "cuda")
    graph.inputs.copy_(filled, non_blocking=True)
    graph.replay()
    # The next batch writes to the same place.
    return graph.vectors[: len(token_ids)].clone()


def _even(bucket: Bucket) -> list[int]:
    """Lengths of inputs that fill the bucket."""
    size, more = divmod(bucket.tokens, bucket.inputs)
    return [size + 1] * more + [size] * (bucket.inputs - more)
