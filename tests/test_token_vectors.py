"""The vectors of all tokens, layer by layer: engine, batches, chunks, dispatcher and the walk through the gateway."""

from __future__ import annotations

import asyncio
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch

from serve_app.cluster.answers import Answers
from serve_app.cluster.chunk import ChunkServer
from serve_app.cluster.dispatcher import TOKEN_MESSAGE_BYTES, Dispatcher
from serve_app.cluster.engine_host import launch_batch
from serve_app.cluster.environment import PERFORMANCE
from serve_app.cluster.replicas import ReplicaSet
from serve_app.cluster.transport import MESSAGE_LIMIT
from serve_app.engine.batcher import Batcher
from serve_app.engine.engine import Engine
from serve_app.engine.model import Model
from serve_app.engine.stored import load_weights
from serve_app.engine.token_vectors import TokenVectorEncoder
from serve_app.errors import EngineError, InputOverMemoryError, InternalError, NonFiniteError, TooManyTokensError
from serve_app.types import (
    MOST_TOKEN_VALUES,
    ChunkReply,
    EmbedJob,
    Envelope,
    Limits,
    Output,
    Priority,
    TokenIds,
    TokenVectors,
    Vectors,
)
from tests.checkpoints import SHAPES, checkpoint, random_ids
from tests.dispatching import Gateway, reply_to, tokens, virtually
from tests.reference import assert_same, expected, tokenizer
from tests.reference import engine as demo
from tests.test_service import Walk

POOLED, TOKENS = Output.POOLED, Output.TOKENS


# --- the engine


@cache
def reference(shape: str) -> Any:
    from transformers import AutoModel

    return AutoModel.from_pretrained(checkpoint(shape), dtype=torch.float32).eval()


@torch.inference_mode()
def last_hidden_state(shape: str, ids: TokenIds) -> Vectors:
    return reference(shape)(torch.from_numpy(ids.astype(np.int64))[None]).last_hidden_state[0].numpy()


def assert_states(found: list[Vectors], shape: str, ids: list[TokenIds]) -> None:
    assert len(found) == len(ids)
    for states, one in zip(found, ids, strict=True):
        assert (states.shape, states.dtype) == ((len(one), SHAPES[shape].hidden_size), np.float32)
        np.testing.assert_allclose(states, last_hidden_state(shape, one), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_states_are_those_of_transformers(shape: str) -> None:
    ids = random_ids([17, 1, 300, 17, 2, 64], SHAPES[shape].vocab_size)
    engine = Engine.load(str(checkpoint(shape)), device="cpu", dtype="float32", max_batch_tokens=256, verify=False)
    assert_states(engine.launch_tokens(ids)(), shape, ids)


@pytest.mark.parametrize("options", [{"part_tokens": 100}, {"invariant": True}, {"keep_layers": False}])
def test_so_they_are_in_parts_and_in_other_ways(options: dict[str, Any]) -> None:
    ids = random_ids([17, 1, 300, 17], SHAPES["demo"].vocab_size)
    weights = load_weights(checkpoint(), SHAPES["demo"], torch.device("cpu"), torch.float32)
    engine = Engine(Model(SHAPES["demo"], weights, **options))
    assert_states(engine.launch_tokens(ids)(), "demo", ids)


def test_no_prefix_is_reused() -> None:
    engine = Engine.load(str(checkpoint()), device="cpu")
    head, *tails = random_ids([40, *[3] * 16], SHAPES["demo"].vocab_size)
    ids = [np.concatenate([head, tail]) for tail in tails]
    for one in ids:
        engine.encode([one])
    assert len(engine.prefixes)
    assert_states(engine.launch_tokens(ids[:4])(), "demo", ids[:4])


# --- batches


def encoder(free: Any = lambda: None) -> TokenVectorEncoder:
    return TokenVectorEncoder(demo().launch_tokens, demo().hidden_size, torch.OutOfMemoryError, free)


async def test_a_batch_of_both_kinds_with_bad_ones() -> None:
    texts = ["one", "two", "two", "three"]
    ids = tokenizer().encode_batch(texts)
    wrong = np.array([10**6], np.int32)
    seen: list[list[int]] = []
    for depth in (1, 2):
        batcher = Batcher(
            partial(launch_batch, demo()),
            hidden_size=demo().hidden_size,
            max_batch_tokens=100,
            max_batch_inputs=8,
            depth=depth,
            share_duplicates=True,
            cost=lambda ids, tenant: 1,
            run_tokens=encoder(),
        )
        batcher.on_batch = lambda batch, failed: seen.append([item.cost for item in batch.inputs])
        asked = [ids[0], ids[1], ids[2], wrong, wrong, ids[3]]
        answer = await batcher.submit(asked, outputs=[POOLED, TOKENS, TOKENS, TOKENS, POOLED, POOLED])
        await batcher.close()
        assert_same(answer.vectors[[0, 5]], expected([texts[0], texts[3]]))
        assert [type(answer.errors[row]) for row in sorted(answer.errors)] == [EngineError, EngineError]
        assert sorted(answer.errors) == [3, 4]
        assert sorted(answer.token_vectors) == [1, 2]
        for row in (1, 2):
            states = answer.token_vectors[row]
            assert len(states) == len(ids[row])
            assert_same(states[-1:] / np.linalg.norm(states[-1]), expected(texts[row : row + 1]))
            assert not answer.vectors[row].any()
    # Both of the two equal inputs were computed, and at their full cost.
    assert seen == [[1, len(ids[1]), len(ids[2]), 1, 1, 1]] * 2


def test_what_memory_does_not_hold_is_tried_one_by_one() -> None:
    freed: list[bool] = []

    def launch(token_ids: Any) -> Any:
        if sum(map(len, token_ids)) > 4:
            raise torch.OutOfMemoryError
        return lambda: [np.full((len(ids), 2), np.nan if ids[0] == 7 else 1, np.float32) for ids in token_ids]

    encode = TokenVectorEncoder(launch, 2, torch.OutOfMemoryError, lambda: freed.append(True))
    batch = encode([tokens(2, 1), tokens(5, 2), tokens(3, 7)])()
    assert list(batch.token_vectors) == [0]
    assert batch.token_vectors[0].tolist() == [[1, 1], [1, 1]]
    assert {row: type(error) for row, error in batch.failed.items()} == {1: InputOverMemoryError, 2: NonFiniteError}
    assert freed == [True, True]


async def test_an_engine_without_them_says_so() -> None:
    batcher = Batcher(partial(launch_batch, demo()), hidden_size=128, max_batch_tokens=9, max_batch_inputs=2)
    answer = await batcher.submit([tokens(2, 1)], outputs=[TOKENS])
    assert list(answer.errors) == [0]
    await batcher.close()


async def test_a_chunk_of_both_kinds() -> None:
    first, second = tokenizer().encode_batch(["one", "two"])
    batcher = Batcher(
        partial(launch_batch, demo()), hidden_size=128, max_batch_tokens=99, max_batch_inputs=9, run_tokens=encoder()
    )
    reply = await ChunkServer(batcher, "r", "m").embed(
        Envelope(
            gateway="g",
            model="m",
            ids=np.arange(2, dtype=np.uint64),
            token_ids=np.concatenate([first, second]),
            lengths=np.array([len(first), len(second)], np.int32),
            time_left=np.full(2, np.inf, np.float32),
            priority=np.zeros(2, np.uint8),
            output=np.array([POOLED, TOKENS], np.uint8),
        )
    )
    await batcher.close()
    assert_same(reply.vectors[:1], expected(["one"]))
    assert {row: vectors.shape for row, vectors in reply.token_vectors.items()} == {1: (len(second), 128)}


# --- the dispatcher


def states(n: int, mark: int) -> list[list[float]]:
    return [[float(mark), float(place), 2.0] for place in range(n)]


async def both_kinds(replica: str, envelope: Envelope) -> ChunkReply:
    await asyncio.sleep(1.0)
    reply = reply_to(replica, envelope)
    ends = np.cumsum(envelope.lengths).tolist()
    for row in np.flatnonzero(envelope.output).tolist():
        n = int(envelope.lengths[row])
        reply.token_vectors[row] = np.array(states(n, int(envelope.token_ids[ends[row] - 1])), np.float32)
        reply.vectors[row] = 0
    return reply


@virtually
async def test_both_kinds_share_chunks() -> None:
    gateway = Gateway("a", behave=both_kinds)
    pooled = gateway.embed([tokens(3, 1), tokens(2, 2)])
    found = await gateway.dispatcher.embed_all([tokens(2, 3), tokens(4, 4)])
    assert [vectors.tolist() for vectors in found.vectors] == [states(2, 3), states(4, 4)]
    assert (found.queue_seconds.tolist(), found.inference_seconds.tolist()) == ([0.25] * 2, [0.5] * 2)
    assert (await pooled).vectors[:, 0].tolist() == [1, 2]
    assert [envelope.output.tolist() for _, envelope in gateway.wire.sent] == [[1, 1, 0, 0]]
    await asyncio.sleep(1)
    gateway.assert_idle()


@pytest.mark.parametrize("wrong", [{}, {0: np.zeros((1, 3), np.float32)}, {0: np.zeros((2, 2), np.float32)}])
def test_a_reply_without_all_of_them_is_a_defect(wrong: dict[int, Vectors]) -> None:
    async def behave(replica: str, envelope: Envelope) -> ChunkReply:
        reply = reply_to(replica, envelope)
        reply.token_vectors = wrong
        return reply

    @virtually
    async def main() -> None:
        gateway = Gateway("a", behave=behave)
        with pytest.raises(InternalError):
            await gateway.dispatcher.embed_all([tokens(2, 3)])
        await asyncio.sleep(1)
        gateway.assert_idle()

    main()


@virtually
async def test_one_that_failed_has_its_error() -> None:
    async def behave(replica: str, envelope: Envelope) -> ChunkReply:
        return reply_to(replica, envelope, {0: NonFiniteError("no")})

    gateway = Gateway("a", behave=behave)
    with pytest.raises(NonFiniteError):
        await gateway.dispatcher.embed_all([tokens(2, 3)])
    await asyncio.sleep(1)
    gateway.assert_idle()


@virtually
async def test_messages_stay_small() -> None:
    sent: list[int] = []

    class Wire:
        async def send(self, replica: str, envelope: Envelope) -> ChunkReply:
            sent.append(int(envelope.lengths.sum()))
            raise InternalError

    view = ReplicaSet(slots_per_class=99)
    view.set_replicas(["a"])
    hidden = 2**18
    dispatcher = Dispatcher(view, Wire(), gateway="g", hidden_size=hidden)  # type: ignore[arg-type]
    with pytest.raises(InternalError):
        await dispatcher.embed_all([tokens(10, mark) for mark in range(20)])
    assert len(sent) > 1
    assert max(sent) * hidden * 4 <= TOKEN_MESSAGE_BYTES
    await dispatcher.close()


def test_the_largest_message_is_within_grpc_s_limit() -> None:
    assert int(PERFORMANCE[MESSAGE_LIMIT]) > 4 * MOST_TOKEN_VALUES * 1.25


# --- the gateway


async def test_they_are_neither_kept_nor_shared() -> None:
    asked: list[int] = []

    class Source:
        async def embed_all(self, token_ids: Any, *, priority: Priority, deadline: float) -> str:
            asked.append(len(token_ids))
            await asyncio.sleep(0)
            return "found"

    answers = Answers(Source(), model="m", hidden_size=3)  # type: ignore[arg-type]
    answers.resize(2**20)
    twice = [tokens(2, 1), tokens(2, 1)]
    assert await asyncio.gather(answers.embed_all(twice), answers.embed_all(twice)) == ["found", "found"]
    assert (asked, answers.kept_bytes) == ([2, 2], 0)


class Grant:
    name, admin = "a", False

    def __init__(self) -> None:
        self.charged: list[int] = []

    def permit(self, job: EmbedJob) -> None:
        job.priority = Priority.BULK

    async def charge(self, tokens: int) -> None:
        self.charged.append(tokens)


async def test_the_walk_of_a_request() -> None:
    walk, grant = Walk(), Grant()
    walk.service.limits = Limits(max_token_vectors=5)

    async def ask(*texts: str) -> TokenVectors:
        job = EmbedJob("m", texts=[*texts], output=TOKENS, grant=grant)  # type: ignore[arg-type]
        return await walk.service.embed_all(job, "id")

    found = await ask("ab", "cde")
    assert (found.lengths.tolist(), found.inputs, found.prompt_tokens) == ([2, 3], 2, 5)
    assert (found.vectors.shape, found.vectors.dtype) == ((5, 4), np.float32)
    assert (found.stage_seconds["inference"], grant.charged, walk.dispatcher.priorities) == (0.5, [5], [Priority.BULK])
    assert (await ask("abcd")).lengths.tolist() == [4]
    with pytest.raises(TooManyTokensError) as refused:
        await ask("abc", "def")
    assert refused.value.param == "input"
    assert str(refused.value).startswith("Requested the vectors of 6 tokens, max 5 per request, each 4 numbers. Send")
    assert grant.charged == [5, 4]


@pytest.mark.parametrize(
    ("setting", "dimensions", "most"),
    [(None, 1024, 8192), (None, 4096, 2048), (100, 1024, 100), (10**6, 1024, 49152), (20_000, 4096, 12288)],
)
def test_how_many_there_may_be(setting: int | None, dimensions: int, most: int) -> None:
    assert Limits(max_token_vectors=setting).token_vectors(dimensions) == most
