"""Measures on this machine what the simulator takes as given: the demo model's batches, what choosing a replica costs, and what a
request, an input and a chunk cost the gateway.

The gateway's three costs come from three loads of the real service with an emulated device that takes no time. One connection with one
request under way, so that no two requests share a chunk: one input, many inputs in one chunk, many inputs in a chunk each few. Each
gives one linear equation. The time on the way is what an idle request takes over HTTP beyond that.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.http_client import Address, Connection
from loadtest.report import percentile
from loadtest.running import Running, emulated
from loadtest.workload import SHORT, body
from serve_app.cluster.replicas import ReplicaSet
from serve_app.engine.engine import Engine
from serve_app.types import DEMO_MODEL_ID, ReplicaStatus

LENGTHS = (10, 36, 120, 480)
BATCH_TOKENS = 2048
MANY, FEW = 64, 8  # inputs of a request, and of a chunk
REPLICAS = (10, 100, 1000)


def calibrate(seconds: float) -> dict[str, Any]:
    """Everything; each load of the service takes `seconds`."""
    return {
        "device": demo_device(),
        "choice": choice_costs(),
        "gateway": gateway_costs(seconds),
    }


def demo_device(rounds: int = 15) -> dict[str, Any]:
    """Seconds of a batch of the demo model on one thread, as `batch + tokens / rate`: least squares of the relative error."""
    engine = Engine.load(DEMO_MODEL_ID, device="cpu", threads=1)
    engine.warmup()
    rows, times = [], []
    for length in LENGTHS:
        for inputs in (1, 4, 16, 64):
            if length * inputs > BATCH_TOKENS:
                continue
            batch = [np.arange(length, dtype=np.int32) + i for i in range(inputs)]
            best = [_seconds(lambda: engine.encode(batch)) for _ in range(rounds)]  # noqa: B023
            rows.append((1.0, float(length * inputs)))
            times.append(float(np.median(best)))
    fit, errors = _fit(rows, times)
    return {
        "batch_seconds": fit[0],
        "tokens_per_second": 1 / fit[1],
        "relative_error": {"median": float(np.median(errors)), "highest": float(errors.max())},
        "batches": [
            {"tokens": int(tokens), "seconds": seconds} for (_, tokens), seconds in zip(rows, times, strict=True)
        ],
    }


def choice_costs(calls: int = 300) -> dict[str, Any]:
    """Seconds of the real `ReplicaSet.try_acquire` by number of replicas, each busy and last heard of at another time."""
    measured = {}
    for replicas in REPLICAS:
        names = [f"replica-{i:04}" for i in range(replicas)]
        view = ReplicaSet()
        view.set_replicas(names)
        for i, _ in enumerate(names):
            name = view.try_acquire(0, 100)
            assert name is not None
            view.release(name, 0, 100, ReplicaStatus(name, 1000 + i, 50_000.0))
        acquired = [(view.try_acquire(0, 1000), i) for i in range(replicas // 2)]
        took = []
        for _ in range(calls):
            start = time.perf_counter()
            taken = view.try_acquire(2, 1000)
            took.append(time.perf_counter() - start)
            assert taken is not None
            view.release(taken, 2, 1000, None)
        assert len(acquired) == replicas // 2
        measured[replicas] = float(np.median(took))
    fit, _ = _fit([(1.0, float(n)) for n in measured], list(measured.values()))
    return {"choice": max(0.0, fit[0]), "choice_per_replica": fit[1], "seconds": measured}


def gateway_costs(seconds: float) -> dict[str, Any]:
    """CPU seconds of a gateway by request, input and chunk; of HAProxy by request; and an idle request's way."""
    loads: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="embedserve-calibrate-") as folder:
        for chunk_inputs in (MANY, FEW):
            settings = {"replicas": 1, "dispatch.chunk_inputs": chunk_inputs}
            with emulated(Path(folder) / f"chunk-{chunk_inputs}.log", settings) as service:
                for inputs in (1, MANY):
                    loads.append(_load(service, inputs, seconds) | {"chunks": -(-inputs // chunk_inputs)})
    fit, errors = _fit(
        [(1.0, float(each["inputs"]), float(each["chunks"])) for each in loads],
        [each["cpu"]["gateway"] for each in loads],
    )
    alone = [each for each in loads if each["inputs"] == 1]
    own = sum(fit)
    proxy = float(np.mean([each["cpu"].get("haproxy", 0.0) for each in alone]))
    return {
        "request": fit[0],
        "input": fit[1],
        "chunk": fit[2],
        "proxy": proxy,
        "way": float(np.mean([each["p50"] for each in alone])) - own - proxy,
        "relative_error": float(errors.max()),
        "loads": loads,
    }


def _load(service: Running, inputs: int, seconds: float) -> dict[str, Any]:
    """Requests of so many inputs, one after the other: median seconds, and CPU seconds per request of each group of processes."""
    address = Address.of(service.url)
    numbers = count()
    took = []
    with Connection(address) as connection:

        def ask() -> None:
            texts = SHORT.texts([next(numbers) for _ in range(inputs)])
            request = address.frame(body(DEMO_MODEL_ID, texts))
            start = time.perf_counter()
            reply = connection.exchange(request)
            took.append(time.perf_counter() - start)
            if reply.status != 200:
                raise RuntimeError(f"{service.url} answered {reply.status}")

        for _ in range(50):
            ask()
        took.clear()
        before, stop = _cpu(service), time.perf_counter() + seconds
        while time.perf_counter() < stop:
            ask()
        after = _cpu(service)
    cpu = {name: (after[name] - before.get(name, 0.0)) / len(took) for name in after}
    return {"inputs": inputs, "requests": len(took), "p50": percentile(took, 50), "cpu": cpu}


def _cpu(service: Running) -> dict[str, float]:
    seconds = {}
    for name, group in service.groups().items():
        times = [process.cpu_times() for process in group]
        seconds[name] = sum(each.user + each.system for each in times)
    return seconds


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _fit(rows: Sequence[tuple[float, ...]], values: Sequence[float]) -> tuple[list[float], np.ndarray]:
    """Coefficients that minimise the squared relative error, and the absolute relative errors."""
    x, y = np.array(rows), np.array(values)
    fit, *_ = np.linalg.lstsq(x / y[:, None], np.ones(len(y)), rcond=None)
    return [float(value) for value in fit], np.abs(x @ fit / y - 1)
