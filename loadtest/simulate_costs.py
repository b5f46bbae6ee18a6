"""What things cost: devices, gateways, HAProxy, the way between them. Each figure says where it is from.

`measured` figures come from this repository's own runs on 2 cores of a Xeon (see RESULTS.md); `assumed` ones are arithmetic on
data sheets, and nothing here has run there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

CALIBRATION = Path(__file__).parent / "results" / "simulate_calibration.json"
# Of a batch's time, on a machine that does other things as well.
DEMO_JITTER = 0.1


@dataclass(frozen=True, slots=True)
class Device:
    """A replica's engine: a batch takes `batch_seconds + tokens / tokens_per_second + inputs * input_seconds`.

    `jitter` is the relative standard deviation of that, log-normal. `max_tokens` and `max_inputs` bound a batch.
    """

    name: str
    batch_seconds: float
    tokens_per_second: float
    source: str
    input_seconds: float = 0.0
    jitter: float = 0.0
    max_tokens: int = 16_384
    max_inputs: int = 512

    def seconds(self, tokens: int, inputs: int) -> float:
        """A batch's time, without jitter."""
        return self.batch_seconds + tokens / self.tokens_per_second + inputs * self.input_seconds

    def full_rate(self, tokens_per_input: float) -> float:
        """Inputs per second in full batches of inputs of one length."""
        inputs = max(1, min(self.max_inputs, int(self.max_tokens / tokens_per_input)))
        return inputs / self.seconds(int(inputs * tokens_per_input), inputs)


DEVICES = {
    device.name: device
    for device in (
        Device("l4", 0.004, 64_000, "assumed: Qwen3-Embedding-0.6B at 50 % of an L4's 121 TFLOP/s"),
        Device("h200", 0.004, 400_000, "assumed: Qwen3-Embedding-0.6B at 40 % of an H200's 989 TFLOP/s"),
    )
}


@dataclass(frozen=True, slots=True)
class GatewayCosts:
    """CPU seconds of a gateway's one event loop.

    Half of `request` and `input` is spent when a request arrives, half when its answer leaves; likewise of `chunk` when a chunk
    is sent and when its reply lands. Choosing a replica takes `choice + choice_per_replica * replicas`, once a chunk, and once
    more in a turn that finds no free slot.
    """

    request: float
    input: float
    chunk: float
    choice: float
    choice_per_replica: float
    source: str

    def choosing(self, replicas: int) -> float:
        """Seconds to choose among so many."""
        return self.choice + self.choice_per_replica * replicas


@dataclass(frozen=True, slots=True)
class Wire:
    """Seconds on the way. `client`: from the client to HAProxy and back together; `proxy`: HAProxy's CPU for a request, half of
    it each way, on `proxy_threads` threads; `hop`: gateway to replica, one way, with Serve's part in it."""

    client: float
    proxy: float
    hop: float
    proxy_threads: int
    source: str


def calibrated(path: Path = CALIBRATION) -> tuple[GatewayCosts, Wire, Device]:
    """What `simulate calibrate` measured: gateway, wire, and the demo model on one CPU thread as a device."""
    measured = json.loads(path.read_text())
    source = f"measured: {measured['date'][:10]}, {measured['hardware']['cpu']}"
    choice, gateway, device = measured["choice"], measured["gateway"], measured["device"]
    costs = GatewayCosts(
        gateway["request"], gateway["input"], gateway["chunk"], choice["choice"], choice["choice_per_replica"], source
    )
    # What an idle request takes beyond the CPU of gateway and HAProxy: a tenth to and from HAProxy, the rest between gateway and
    # replica.
    wire = Wire(gateway["way"] * 0.1, gateway["proxy"], gateway["way"] * 0.45, 1, source)
    demo = Device(
        "demo", device["batch_seconds"], device["tokens_per_second"], source, max_tokens=2048, jitter=DEMO_JITTER
    )
    return costs, wire, demo


GATEWAY, WIRE, _demo = calibrated()
DEVICES[_demo.name] = _demo
