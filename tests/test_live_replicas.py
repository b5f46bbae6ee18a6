"""What a changed `user_config` changes in an Embedder and in a Gateway, without Serve around them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from ray import serve

from serve_app.cluster import embedder as embedder_module
from serve_app.cluster import gateway as gateway_module
from serve_app.cluster.embedder import Embedder
from serve_app.cluster.graph import embedder_surge_percent
from serve_app.cluster.loaded import Loaded
from serve_app.cluster.vector_cache import ENTRY_BYTES
from serve_app.config import Settings
from serve_app.engine.batcher import Batcher, EncodedBatch
from serve_app.telemetry.nodes import Nodes
from serve_app.types import TokenIds


@pytest.fixture(autouse=True)
def replica(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="me"), app_name="app")
    monkeypatch.setattr(serve, "get_replica_context", lambda: context)
    # Their metrics stay in this process, and nobody looks for other nodes.
    for place in (embedder_module, gateway_module):
        monkeypatch.setattr(place, "count_in", lambda directory: None)
    monkeypatch.setattr("serve_app.telemetry.nodes.session_folder", lambda: tmp_path)
    monkeypatch.setattr(Nodes, "keep", lambda self: asyncio.sleep(0))


class Plain(Embedder):
    """Counts the inputs of its batches in place of computing them."""

    batches: list[int]
    prefixes: list[int | None]

    @staticmethod
    def load(settings: Settings, num_gpus: float) -> Loaded:
        def run(token_ids: list[TokenIds]) -> EncodedBatch:
            Plain.batches.append(len(token_ids))
            return EncodedBatch(np.zeros((len(token_ids), 4), np.float32))

        Plain.batches, Plain.prefixes = [], []
        batch = settings.batch
        tokens = batch.max_tokens or 100
        batcher = Batcher(run, hidden_size=4, max_batch_tokens=tokens, max_batch_inputs=batch.max_inputs)
        return Loaded(batcher, "model", keep_prefixes=Plain.prefixes.append)


async def batches(embedder: Plain, inputs: int, tokens: int = 1) -> list[int]:
    Plain.batches.clear()
    encoded = await embedder._batcher.submit([np.zeros(tokens, np.int32)] * inputs)
    assert encoded.errors == {}
    return Plain.batches.copy()


async def test_an_embedder_batches_as_its_user_config_says() -> None:
    embedder = Plain(Settings.model_validate({"batch.max_tokens": 64}), num_gpus=0)
    await embedder.reconfigure({})
    assert await batches(embedder, 8) == [8]
    await embedder.reconfigure({"batch": {"max_inputs": 3, "bulk_patience_seconds": 7.0}})
    assert await batches(embedder, 8) == [3, 3, 2]
    assert embedder._batcher.queue.policy.bulk_patience_s == 7.0
    await embedder.reconfigure({"batch": {"max_tokens": 32}})
    assert await batches(embedder, 8, tokens=16) == [2, 2, 2, 2]
    await embedder.reconfigure({"batch": {"max_tokens": None}})  # as if unset: the device's own
    assert await batches(embedder, 8, tokens=16) == [8]
    assert Plain.prefixes == []
    await embedder.reconfigure({"batch": {"prefix_cache_mb": 7}})
    await embedder.reconfigure({})
    assert Plain.prefixes == [7, None]
    assert await batches(embedder, 8) == [8]
    await embedder.reconfigure({"batch": {"share_duplicates": False}})
    assert not embedder._batcher.share_duplicates
    await embedder.reconfigure({"batch": {"share_duplicates": True}})
    assert await batches(embedder, 8) == [1]
    await embedder._batcher.close()


async def test_a_budget_lowered_by_too_little_memory_stays_until_it_is_set() -> None:
    embedder = Plain(Settings.model_validate({"batch.max_tokens": 64}), num_gpus=0)
    await embedder.reconfigure({})
    embedder._batcher.max_batch_tokens = 16
    await embedder.reconfigure({"batch": {"max_inputs": 300}})
    assert embedder._batcher.max_batch_tokens == 16
    await embedder.reconfigure({"batch": {"max_tokens": 48}})
    assert embedder._batcher.max_batch_tokens == 48
    await embedder._batcher.close()


async def test_a_gateway_limits_and_dispatches_as_its_user_config_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.cluster.feed._feeds", {})
    handle = SimpleNamespace(options=lambda **_: None)
    # The class under Serve's ingress wrapper, whose constructor needs a replica.
    gateway: Any = gateway_module.Gateway.__mro__[1](Settings(), 0.0, handle)
    await gateway.reconfigure({})
    app = gateway.__serve_build_asgi_app__()
    body = {"model": "demo", "input": ["one", "two", "three"]}

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        await gateway.reconfigure(
            {
                "limits": {"max_inputs": 2, "max_input_tokens": 100},
                "dispatch": {"chunk_inputs": 5, "slots_per_replica": 7, "request_timeout_seconds": 9},
                "admission": {"max_gateway_tokens": 11},
                "batch": {"bulk_patience_seconds": 13, "share_duplicates": False},
                "cache": {"max_mb": 3, "share_between_keys": True},
            }
        )
        refused = await client.post("/v1/embeddings", json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input")
        assert "2" in refused.json()["error"]["message"]
        assert (await client.get("/v1/models")).json()["data"][0]["max_input_tokens"] == 100
    serving = gateway._serving
    assert serving.replicas.slots_per_class == 7
    assert serving.dispatcher._chunk_inputs == 5
    assert serving.dispatcher._queue.policy.bulk_patience_s == 13
    assert serving.service.timeouts.default == 9
    assert serving._admission.bounds.max_gateway_tokens == 11
    assert not serving.answers.share
    assert serving.answers.share_between_keys
    assert len(serving.answers._cache._matrix) == 3 * 2**20 // (4 * 128 + ENTRY_BYTES)

    # Longer than the model goes: refused whole.
    await gateway.reconfigure({"limits": {"max_inputs": 1, "max_input_tokens": 200_000}})
    assert serving.service.limits.max_inputs == 2
    await serving.dispatcher.close()


@pytest.mark.parametrize(
    ("settings", "num_gpus", "percent"), [({}, 0, 25), ({}, 1, 0), ({"max_surge_percent": 50}, 1, 50)]
)
def test_embedders_on_gpu_replace_each_other_one_by_one(
    settings: dict[str, int], num_gpus: float, percent: int
) -> None:
    assert embedder_surge_percent(Settings.model_validate(settings), num_gpus) == percent
