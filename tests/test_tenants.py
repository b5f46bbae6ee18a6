"""API keys in a replica: neither equal inputs nor prefixes are shared between them, so that nobody can tell what others send."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from serve_app.cluster.chunk import ChunkServer
from serve_app.cluster.engine_host import encode_batch
from serve_app.cluster.tenants import NOBODY, number_of
from serve_app.engine.batch import EncodedBatch
from serve_app.engine.batcher import Batcher
from serve_app.engine.memory import HalvingEncoder
from serve_app.engine.prefix_finder import MOST_TENANTS, PrefixFinders
from serve_app.errors import StaleReplicaError
from serve_app.types import ENVELOPE_VERSION, Envelope, Ping, ReplicaStatus, TokenIds
from tests.batching import Engine, batching, tokens, vector
from tests.checkpoints import random_ids
from tests.test_chunk import envelope
from tests.test_prefix import behind, fresh, off

A, B = number_of("a"), number_of("b")


def test_a_tenant_has_one_number_everywhere_and_nobody_has_none() -> None:
    assert number_of("") == NOBODY == 0
    # Written down: gateways of different processes, and later versions, must agree.
    assert number_of("a") == 17770374606895659605
    assert len({number_of(f"key{n}") for n in range(1000)} - {0}) == 1000
    assert all(0 < number_of(name) < 2**64 for name in ("a", "b", "ü"))


# --- equal inputs


async def test_equal_inputs_that_wait_are_shared_within_a_tenant_only() -> None:
    engine = Engine()
    engine.held = True
    async with batching(engine, share_duplicates=True) as batcher:
        first = batcher.submit([tokens(2, 9)])
        await engine.started()
        future = batcher.submit([tokens(4, 1)] * 5, tenants=[A, B, A, 0, 0])
        engine.outcomes.put(None)
        engine.outcomes.put(None)
        await first
        encoded = await future
    assert engine.marks() == [[9], [1, 1, 1]]
    assert encoded.vectors.tolist() == [vector(tokens(4, 1))] * 5


async def test_an_input_joins_a_twin_that_runs_of_its_own_tenant_only() -> None:
    engine = Engine()
    engine.held = True
    async with batching(engine, share_duplicates=True) as batcher:
        first = batcher.submit([tokens(4, 1)], tenants=[A])
        await engine.started()
        late = [batcher.submit([tokens(4, 1)], tenants=[tenant]) for tenant in (A, B, 0)]
        assert len(batcher.queue) == 2
        engine.outcomes.put(None)
        engine.outcomes.put(None)
        await asyncio.gather(first, *late)
    assert engine.marks() == [[1], [1, 1]]


async def test_the_engine_is_told_of_tenants_where_there_are_some() -> None:
    seen: list[Sequence[int]] = []

    def run(token_ids: list[TokenIds], tenants: Sequence[int] = ()) -> EncodedBatch:
        seen.append(tenants)
        return EncodedBatch(np.zeros((len(token_ids), 3), np.float32))

    batcher = Batcher(run, hidden_size=3, max_batch_tokens=10, max_batch_inputs=8)
    for tenants in ([0, 0], [A, 0]):
        await batcher.submit([tokens(2, 1), tokens(3, 2)], tenants=tenants)
    with pytest.raises(ValueError, match="a tenant for every input"):
        batcher.submit([tokens(2, 1), tokens(3, 2)], tenants=[A])
    await batcher.close()
    assert seen == [(), [A, 0]]


# --- prefixes


def test_a_prefix_is_shared_within_a_tenant_only() -> None:
    engine = fresh()
    ids = behind(random_ids([30], 1280)[0], [10] * 6, 1)
    engine.launch(ids, [A] * 6)()
    assert engine.launch(ids, [A] * 6)().reused == [30] * 6
    assert engine.launch(ids, [B] * 2 + [0] * 2 + [A] * 2)().reused == [0, 0, 0, 0, 30, 30]
    assert [engine.prefixes.cost(ids[0], tenant) for tenant in (A, B, 0)] == [10, 40, 40]
    # Nor do sightings add up: three of one, three of another.
    another = behind(random_ids([30], 1280, seed=7)[0], [10] * 6, 1)
    engine.launch(another, [A] * 3 + [B] * 3)()
    assert len(engine.prefixes) == 1
    vectors, bad, reused = engine.launch(ids, [B] * 6)()  # it was seen twice of b before
    assert (len(engine.prefixes), bad, sum(reused)) == (2, [], 5 * 30)
    assert np.abs(vectors - off().encode(ids)).max() <= 1e-5


def test_the_memory_for_prefixes_is_one_for_all_tenants() -> None:
    engine = fresh()
    ids = behind(random_ids([30], 1280)[0], [4] * 5, 1)
    engine.launch(ids, [A] * 5)()
    engine.prefixes.resize(int(1.5 * engine.prefixes.nbytes))
    engine.launch(ids, [B] * 5)()
    assert len(engine.prefixes) == 1
    assert engine.launch(ids[:2], [B, A])().reused == [30, 0]
    assert [engine.prefixes.cost(ids[0], tenant) for tenant in (A, B)] == [34, 9]


def test_tenants_that_are_not_seen_any_more_are_forgotten() -> None:
    finders = PrefixFinders()
    first = finders.of(1)
    for tenant in range(2, MOST_TENANTS + 1):
        finders.of(tenant)
    assert finders.of(1) is first
    finders.of(MOST_TENANTS + 1)
    assert len(finders) == MOST_TENANTS
    assert finders.of(1) is first
    second = finders.of(2)
    assert len(finders) == MOST_TENANTS
    assert second is finders.of(2)


def test_a_bad_input_and_a_full_memory_leave_the_others_their_tenants() -> None:
    engine = fresh()
    ids = behind(random_ids([30], 1280)[0], [10] * 6, 1)
    engine.launch(ids, [A] * 6)()
    with_bad = [ids[0], np.array([10**6], np.int32), ids[1]]
    assert encode_batch(engine, with_bad, [A, A, B]).reused == [30, 0, 0]
    seen: list[Sequence[int]] = []

    def encode(token_ids: list[TokenIds], tenants: Sequence[int] = ()) -> EncodedBatch:
        if len(token_ids) > 2:
            raise torch.OutOfMemoryError
        seen.append(tenants)
        return encode_batch(engine, token_ids, tenants)

    lowered: list[int] = []
    encoder = HalvingEncoder(encode, hidden_size=128, lower=lowered.append, cost=engine.prefixes.cost)
    assert encoder(ids[:4], [A, B, A, A]).reused == [30, 0, 30, 30]  # type: ignore[union-attr]
    assert (seen, lowered) == ([[A, B], [A, A]], [(10 + 40 + 10 + 10) // 2])


# --- on the way


async def test_a_chunk_says_whose_each_input_is_and_nothing_where_it_is_nobody_s() -> None:
    seen: list[tuple[list[TokenIds], Any]] = []

    def run(token_ids: list[TokenIds], tenants: Sequence[int] = ()) -> EncodedBatch:
        seen.append((token_ids, tenants))
        return EncodedBatch(np.zeros((len(token_ids), 2), np.float32))

    batcher = Batcher(run, hidden_size=2, max_batch_tokens=64, max_batch_inputs=8, share_duplicates=True)
    server = ChunkServer(batcher, "r", "m")
    await server.embed(envelope([5, 6], [5, 6], [5, 6], tenants=np.array([A, B, A], np.uint64)))
    await server.embed(envelope([5, 6], [5, 6]))
    await batcher.close()
    assert [(len(inputs), tenants) for inputs, tenants in seen] == [(2, [A, B]), (1, ())]


def nothing(token_ids: list[TokenIds], tenants: Sequence[int] = ()) -> EncodedBatch:
    """Vectors of zeros."""
    return EncodedBatch(np.zeros((len(token_ids), 2), np.float32))


class Newer:
    """A message as another version might pickle it: with a field more, and one less."""

    def __init__(self, kind: type, **fields: Any) -> None:
        self.kind = kind
        self.fields = fields

    def __reduce__(self) -> tuple[Any, ...]:
        # Before version 4 messages had slots, which are pickled so.
        old = self.fields.get("version", ENVELOPE_VERSION) < 4
        return object.__new__, (self.kind,), (None, self.fields) if old else self.fields


@pytest.mark.parametrize("version", [ENVELOPE_VERSION - 1, ENVELOPE_VERSION + 1])
async def test_a_message_of_another_version_is_read_far_enough_to_be_turned_away(version: int) -> None:
    batcher = Batcher(nothing, hidden_size=2, max_batch_tokens=9, max_batch_inputs=1)
    server = ChunkServer(batcher, "r", "m")
    strange = {"gateway": "g", "model": "m", "version": version, "a_field_of_tomorrow": 1}
    arrived = pickle.loads(pickle.dumps(Newer(Envelope, **strange)))
    with pytest.raises(StaleReplicaError):
        await server.embed(arrived)
    with pytest.raises(StaleReplicaError):
        server.ping(pickle.loads(pickle.dumps(Newer(Ping, **strange))))
    await batcher.close()
    status = pickle.loads(pickle.dumps(Newer(ReplicaStatus, replica="r", a_field_of_tomorrow=1)))
    assert (type(status), status.replica) == (ReplicaStatus, "r")
    whole = pickle.loads(pickle.dumps(envelope([5], tenants=np.array([A], np.uint64))))
    assert (whole.tenants.tolist(), whole.version, whole.gateway) == ([A], ENVELOPE_VERSION, "g")
