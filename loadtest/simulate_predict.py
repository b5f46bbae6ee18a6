"""Two replicas, measured and predicted: the real service with emulated devices under open-loop load, and the simulator's figures."""

from __future__ import annotations

import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtest.report import percentile
from loadtest.simulate_cluster import Cluster, Layout
from loadtest.simulate_costs import Device
from loadtest.simulate_report import result
from loadtest.simulate_work import Traffic
from loadtest.workload import SHORT
from serve_app.types import DEMO_MODEL_ID

if TYPE_CHECKING:
    from loadtest.open_loop import Outcome

MEASURED = Path(__file__).parent / "results" / "simulate_measured.json"
REPLICAS = 2
BATCH_INPUTS = 16
BATCH_TOKENS = 2048
WARM_SECONDS = 3.0
PREDICTED_SECONDS = 300.0
LOADS = (0.4, 0.7, 0.9)
# The first is slow enough that nothing else matters; with the second, the gateway has several hundred requests a second.
EMULATED = {
    "100 inputs/s": Device(
        "100 inputs/s", 0.005, 1e9, "emulated", 0.01, max_tokens=BATCH_TOKENS, max_inputs=BATCH_INPUTS
    ),
    "5,000 tokens/s": Device(
        "5,000 tokens/s", 0.02, 5000.0, "emulated", 0.0, max_tokens=BATCH_TOKENS, max_inputs=BATCH_INPUTS
    ),
}


def measure(seconds: float) -> list[dict[str, Any]]:
    """Each device at each load for three times `seconds`, single short inputs at random moments."""
    # Predicting needs no service.
    from loadtest.open_loop import OpenPlan, Stream, drive_open
    from loadtest.running import emulated

    rows, first = [], 0
    for name, device in EMULATED.items():
        settings = {
            "replicas": REPLICAS,
            "dispatch.chunk_inputs": BATCH_INPUTS,
            "batch.max_inputs": BATCH_INPUTS,
            "device.batch_seconds": device.batch_seconds,
            "device.tokens_per_second": device.tokens_per_second,
            **({"device.inputs_per_second": 1 / device.input_seconds} if device.input_seconds else {}),
        }
        with (
            tempfile.TemporaryDirectory(prefix="embedserve-simulate-") as folder,
            emulated(Path(folder) / "up.log", settings) as service,
            ProcessPoolExecutor(1, get_context("spawn")) as generator,
        ):
            for load in LOADS:
                rate, stop = _offered(device, load), WARM_SECONDS + 3 * seconds
                stream = Stream("query", rate, 0.0, stop, SHORT, first)
                outcomes = (
                    generator.submit(drive_open, OpenPlan(service.url, DEMO_MODEL_ID, [stream])).result().outcomes
                )
                first += len(outcomes)
                rows.append({"device": name, "load": load, "offered": rate, **_figures(outcomes, stop)})
                print(rows[-1], flush=True)
    return rows


def predict(seed: int, measured: Path = MEASURED) -> dict[str, Any]:
    """The same loads simulated, and how far off the rate and the latencies are, relative to the measured ones."""
    rows = []
    for row in json.loads(measured.read_text())["rows"]:
        predicted = predict_one(EMULATED[row["device"]], row["offered"], seed)
        rows.append(
            {
                "device": row["device"],
                "offered": row["offered"],
                "measured": {key: row[key] for key in ("inputs_per_second", "p50_ms", "p99_ms")},
                "predicted": predicted,
                "rate_error": predicted["inputs_per_second"] / row["inputs_per_second"] - 1,
                "p50_error": predicted["p50_ms"] / row["p50_ms"] - 1,
                "p99_error": predicted["p99_ms"] / row["p99_ms"] - 1,
            }
        )
    return {
        "what": f"{REPLICAS} replicas, 1 gateway, single inputs of 8-12 tokens; error: predicted / measured - 1",
        "rows": rows,
    }


def predict_one(device: Device, rate: float, seed: int, seconds: float = PREDICTED_SECONDS) -> dict[str, float]:
    """Rate and latencies of two replicas of a device."""
    layout = Layout(device, REPLICAS, 1, 1, chunk_tokens=BATCH_TOKENS, chunk_inputs=BATCH_INPUTS)
    cluster = Cluster(layout, [Traffic("query", rate, 1, SHORT.shortest, SHORT.longest)], seed, warm=WARM_SECONDS)
    cluster.run(seconds)
    found = result(cluster)
    latency = found["latency_ms"]["query"]
    return {"inputs_per_second": found["inputs_per_second"], "p50_ms": latency["p50"], "p99_ms": latency["p99"]}


def _offered(device: Device, load: float) -> float:
    tokens = (SHORT.shortest + SHORT.longest) / 2
    return load * REPLICAS * device.full_rate(tokens)


def _figures(outcomes: list[Outcome], stop: float) -> dict[str, float]:
    counted = [each for each in outcomes if each.due >= WARM_SECONDS]
    failed = [each for each in counted if each.status != 200]
    if failed:
        raise RuntimeError(f"{len(failed)} requests failed, the first with {failed[0].status}")
    answered = sum(WARM_SECONDS <= each.ended <= stop for each in outcomes)
    return {
        "requests": len(counted),
        "inputs_per_second": answered / (stop - WARM_SECONDS),
        "p50_ms": 1e3 * percentile([each.seconds for each in counted], 50),
        "p99_ms": 1e3 * percentile([each.seconds for each in counted], 99),
        "lag_p99_ms": 1e3 * percentile([each.lag for each in counted], 99),
    }
