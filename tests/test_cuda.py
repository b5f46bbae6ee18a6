"""What only a GPU can show: the engine's fast paths on it against the plain one, and that launching waits for nothing.

On a bare GPU box, with torch, transformers, safetensors, tokenizers and pytest, but none of this project's plugins for it:

python -m pytest -c /dev/null --noconftest -p no:cacheprovider -q tests/test_cuda.py
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from serve_app.engine.buckets import BUCKETS
from serve_app.engine.engine import Engine
from serve_app.engine.graphs import GRAPH_BYTES, reserved
from serve_app.engine.memory_budget import activations
from serve_app.engine.model import MLP_TOKENS, Model
from serve_app.engine.model_config import ModelConfig
from serve_app.engine.random_weights import random_weights
from serve_app.engine.varlen_attention import VarlenAttention, varlen_runs_on
from tests.checkpoints import SHAPES, checkpoint, random_ids

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

CONFIG = ModelConfig(2000, 512, 1536, 4, 8, 4, 64)
LENGTHS = [1, 2, 3, 7, 16, 17, 17, 17, 64, 100, 255, 512, 1000]


def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


def model(**options: object) -> Model:
    return Model(CONFIG, random_weights(CONFIG, device(), torch.bfloat16), **options)  # type: ignore[arg-type]


def least_cosine(a: object, b: object) -> float:
    return float((np.asarray(a, np.float64) * np.asarray(b, np.float64)).sum(axis=1).min())


def plain_vectors(ids: list[np.ndarray]) -> np.ndarray:
    return Engine(model(), prefix_cache_mb=0).encode(ids)


def needs_varlen() -> None:
    if not varlen_runs_on(device(), torch.bfloat16, CONFIG.head_dim):
        pytest.skip("needs the variable-length kernel")


def test_the_kernel_passes_its_check() -> None:
    needs_varlen()
    checked = model()
    assert isinstance(checked.attention, VarlenAttention)
    assert checked.goes_on


def test_graphs_give_the_vectors_of_their_kernels() -> None:
    needs_varlen()
    engine = Engine(model(), prefix_cache_mb=0, graphs=True)
    engine.warmup()
    assert engine._graphs is not None
    assert len(engine._graphs) == len(BUCKETS)
    for lengths in ([1], [16], [3, 12], [7, 7, 40], [1] * 31, [500], [100, 200, 150]):
        ids = random_ids(lengths, CONFIG.vocab_size, seed=sum(lengths))
        assert least_cosine(engine.encode(ids), plain_vectors(ids)) > 0.999


def test_graphs_take_no_more_memory_than_is_set_aside() -> None:
    needs_varlen()
    engine = Engine(model(), prefix_cache_mb=0, graphs=True)
    engine.encode(random_ids([1000], CONFIG.vocab_size))
    before = reserved(device())
    assert engine._graphs is not None
    engine._graphs.prepare()
    assert 0 < reserved(device()) - before <= GRAPH_BYTES


def test_nothing_is_compiled_while_serving() -> None:
    parted = model(part_tokens=64)
    prefix = parted.prefix(random_ids([9], CONFIG.vocab_size)[0])
    compiled = counters["stats"]["unique_graphs"]
    assert compiled > 0

    def serve() -> None:  # as the engine's own thread, which has torch's default settings
        for lengths in ([1], [2], [5, 1, 9], [MLP_TOKENS + 1], [65], [30, 64, 35], [16385]):
            ids = random_ids(lengths, CONFIG.vocab_size)
            parted.forward(parted.pack(ids))
            parted.forward(parted.pack(ids, [prefix] + [None] * (len(ids) - 1)))
            parted.every_token(parted.pack(ids)).cpu()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(serve).result()
    assert counters["stats"]["unique_graphs"] == compiled


def test_prefixes_and_parts_change_little() -> None:
    ids = random_ids(LENGTHS, CONFIG.vocab_size)
    prefix = random_ids([40], CONFIG.vocab_size, seed=1)[0]
    shared = [np.append(prefix, one) for one in ids]
    engine = Engine(model())
    engine.encode(shared)
    found = engine.encode_checked([*shared, *ids])
    assert found.reused[: len(ids)] == [40] * len(ids)
    assert least_cosine(found.vectors, plain_vectors([*shared, *ids])) > 0.999
    parted = Engine(model(part_tokens=64))
    parted.encode(shared)
    assert least_cosine(parted.encode([*shared, *ids]), plain_vectors([*shared, *ids])) > 0.999


def test_launching_waits_for_nothing() -> None:
    needs_varlen()
    engine = Engine(model(), graphs=True)
    engine.warmup()
    batches = [random_ids(lengths, CONFIG.vocab_size) for lengths in ([5], LENGTHS, [30000])]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        launched = [engine.launch(ids) for ids in batches]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for ids, arrived in zip(batches, launched, strict=True):
        assert least_cosine(arrived().vectors, plain_vectors(ids)) > 0.999


@pytest.mark.parametrize("part_tokens", [4096, 16384])
def test_32k_tokens_take_no_more_memory_than_is_estimated(part_tokens: int) -> None:
    needs_varlen()
    parted = model(part_tokens=part_tokens)
    ids = random_ids([32768], CONFIG.vocab_size)
    parted.forward(parted.pack([ids[0][:100]]))
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    vectors = parted.forward(parted.pack(ids))
    assert bool(vectors.isfinite().all())
    needs = activations(CONFIG, 2, part_tokens=part_tokens, mlp_tokens=MLP_TOKENS)
    assert torch.cuda.max_memory_allocated() - before <= needs.bytes(32768, 1) + 64 * 2**20  # and a workspace


def test_float32_takes_no_more_memory_than_is_estimated() -> None:
    plain = Model(CONFIG, random_weights(CONFIG, device(), torch.float32))
    ids = random_ids([16000], CONFIG.vocab_size)
    plain.forward(plain.pack([ids[0][:100]]))
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    assert bool(plain.forward(plain.pack(ids)).isfinite().all())
    needs = activations(CONFIG, 4, part_tokens=16384, mlp_tokens=MLP_TOKENS, packed_kernel=False)
    assert torch.cuda.max_memory_allocated() - before <= needs.bytes(16000, 1) + 64 * 2**20


def test_an_input_has_the_same_bits_in_every_batch() -> None:
    invariant = model(invariant=True)
    ids = random_ids(LENGTHS, CONFIG.vocab_size)
    alone = torch.cat([invariant.forward(invariant.pack([one])) for one in ids])
    assert least_cosine(alone.cpu(), plain_vectors(ids)) > 0.999
    order = np.random.default_rng(1).permutation(len(ids))
    for arrangement in (order, order[:4], order[3:]):
        assert torch.equal(invariant.forward(invariant.pack([ids[i] for i in arrangement])), alone[arrangement])


def test_fp8_is_near_float32() -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs Ada, Hopper or newer")
    ids = random_ids([1, 5, 40, 130], SHAPES["demo"].vocab_size)
    low = Engine.load(str(checkpoint()), device="cuda", dtype="fp8", verify=False)
    low.warmup()
    assert least_cosine(low.encode(ids), Engine.load(str(checkpoint()), device="cpu").encode(ids)) >= 0.99
