"""The application around an emulated device: real gateways, real Ray path, real batcher; only the forward pass is replaced, by a sleep
of the time that a device of a stated rate would take.

serve run loadtest.emulated:build device.inputs_per_second=100 replicas=4
python -m loadtest.emulated_up --port 8000 --set device.inputs_per_second=100

It serves the demo checkpoint's name and tokenizer. Its vectors depend on an input's token ids and nothing else, so every reply can be
checked: `vectors_of_texts` gives them.
"""

# No `from __future__ import annotations`: Serve reads the annotation of `build` to validate its arguments.

import hashlib
import os
import signal
import time
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from loadtest.workload import tokenizer
from serve_app.cluster.embedder import Embedder
from serve_app.cluster.graph import application
from serve_app.cluster.loaded import Loaded
from serve_app.cluster.served import fingerprint
from serve_app.config import BatchSettings, Settings
from serve_app.engine.batcher import Batcher, EncodedBatch
from serve_app.engine.checkpoint import Checkpoint, resolve
from serve_app.engine.demo import demo_checkpoint
from serve_app.engine.queue import QueuePolicy
from serve_app.types import TokenIds, Vectors

BATCH_TOKENS = 2048  # as many as the engine takes on CPU, which is what the gateway believes it has before it


class DeviceSettings(BaseModel):
    """The device: a batch takes `batch_seconds`, and its tokens and its inputs at these rates on top; unset is no time at all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_seconds: float = Field(0.0, ge=0)
    tokens_per_second: float | None = Field(None, gt=0)
    inputs_per_second: float | None = Field(None, gt=0)
    startup_seconds: float = Field(0.0, ge=0, description="what loading the model takes")
    deadly_length: int | None = Field(None, ge=2, description="an input of so many tokens kills the replica's process")

    def seconds(self, inputs: int, tokens: int) -> float:
        """Time of one batch."""
        return (
            self.batch_seconds
            + (inputs / self.inputs_per_second if self.inputs_per_second else 0.0)
            + (tokens / self.tokens_per_second if self.tokens_per_second else 0.0)
        )


class EmulatedBatchSettings(BatchSettings):
    """The product's, but every input takes the device its time, equal ones too."""

    share_duplicates: bool = False


class EmulatedSettings(Settings):
    """The product's settings, and the device's."""

    batch: EmulatedBatchSettings = EmulatedBatchSettings()

    device: DeviceSettings = DeviceSettings()


class EmulatedDevice:
    """What the batcher calls instead of the engine. Blocks its thread for as long as the batch takes, without using the CPU."""

    def __init__(self, device: DeviceSettings, hidden_size: int) -> None:
        self._device = device
        self._hidden_size = hidden_size

    def __call__(self, token_ids: list[TokenIds], tenants: Sequence[int] = (), /) -> EncodedBatch:
        """The inputs' vectors, after the batch's time; nothing is shared."""
        if any(len(ids) == self._device.deadly_length for ids in token_ids):
            os.kill(os.getpid(), signal.SIGKILL)
        until = time.monotonic() + self._device.seconds(len(token_ids), sum(map(len, token_ids)))
        vectors = np.stack([vector_of(ids, self._hidden_size) for ids in token_ids])
        time.sleep(max(0.0, until - time.monotonic()))
        return EncodedBatch(vectors)


class EmulatedEmbedder(Embedder):
    """The product's replica with an emulated device in it."""

    @staticmethod
    def load(settings: Settings, num_gpus: float) -> Loaded:
        """A started batcher over the device."""
        assert isinstance(settings, EmulatedSettings)
        time.sleep(settings.device.startup_seconds)
        folder = resolve(settings.model, settings.revision)
        hidden_size = Checkpoint.read(folder).config.hidden_size
        batcher = Batcher(
            EmulatedDevice(settings.device, hidden_size),
            hidden_size=hidden_size,
            max_batch_tokens=settings.batch.max_tokens or BATCH_TOKENS,
            max_batch_inputs=settings.batch.max_inputs,
            policy=QueuePolicy(bulk_patience_s=settings.batch.bulk_patience_seconds),
        )
        return Loaded(batcher, fingerprint(settings, folder))


def build(settings: EmulatedSettings) -> serve.Application:
    """The application, as `serve_app:build` makes it."""
    return application(settings, EmulatedEmbedder)


def vector_of(token_ids: TokenIds, hidden_size: int) -> Vectors:
    """The vector of one input: float32 `[hidden_size]` of length 1, the same for the same ids on every machine."""
    digest = hashlib.blake2b(np.ascontiguousarray(token_ids, "<i4").tobytes(), digest_size=16).digest()
    drawn = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"))).standard_normal(hidden_size)
    vector: Vectors = (drawn / np.linalg.norm(drawn)).astype(np.float32)
    return vector


class EmulatedVectors:
    """The vectors that the service must answer with, wherever replies are checked."""

    def __init__(self) -> None:
        self.hidden_size = Checkpoint.read(demo_checkpoint()).config.hidden_size

    def encode(self, token_ids: Sequence[TokenIds]) -> Vectors:
        """Of these inputs: float32 `[n, hidden_size]`."""
        return np.stack([vector_of(ids, self.hidden_size) for ids in token_ids])


def vectors_of_texts(texts: Sequence[str]) -> Vectors:
    """Of these texts: float32 `[n, hidden_size]`."""
    return EmulatedVectors().encode(tokenizer().encode_batch(list(texts)))
