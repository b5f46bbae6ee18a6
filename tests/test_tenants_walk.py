"""What callers with API keys share in a replica, by a request's whole walk: key, gateway, envelope, batcher, prefixes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import numpy as np
import pytest

from serve_app.access.gate import Gate
from serve_app.access.keys import Keys
from serve_app.access.limiter import ShareLimiter
from serve_app.api.app import build_app
from serve_app.cluster.admission import Admission, Bounds
from serve_app.cluster.answers import Answers
from serve_app.cluster.chunk import ChunkServer
from serve_app.cluster.dispatcher import Dispatcher
from serve_app.cluster.engine_host import encode_batch
from serve_app.cluster.health import ReplicaHealth
from serve_app.cluster.replicas import ReplicaSet
from serve_app.cluster.service import EmbeddingService, Timeouts
from serve_app.cluster.tokenize import JobTokenizer
from serve_app.engine.batch import EncodedBatch
from serve_app.engine.batcher import Batcher
from serve_app.engine.engine import Engine
from serve_app.types import DEMO_MODEL_ID, ChunkReply, Envelope, Limits, ServedModel, TokenIds
from tests.dispatching import POLICY, Wire
from tests.guarded import key
from tests.reference import assert_same, expected, tokenizer

MODEL = "m"
HIDDEN = 128
QUERY = "What do callers share?"
KEYS = [key("a"), key("b")]


class Replica:
    """One with a real engine, which waits until it may go on; `computed` are the inputs of its batches, by their lengths."""

    def __init__(self) -> None:
        self.engine = Engine.load(DEMO_MODEL_ID, device="cpu", verify=False)
        self.may_go_on = threading.Event()
        self.computed: list[list[int]] = []
        self.reused: list[int] = []
        self.services: list[EmbeddingService] = []
        self.batcher = Batcher(
            self.run,
            hidden_size=HIDDEN,
            max_batch_tokens=4096,
            max_batch_inputs=64,
            cost=self.engine.prefixes.cost,
            share_duplicates=True,
        )
        self.chunks = ChunkServer(self.batcher, "one", "")

    def run(self, token_ids: list[TokenIds], tenants: Sequence[int] = (), /) -> EncodedBatch:
        self.computed.append([len(ids) for ids in token_ids])
        assert self.may_go_on.wait(10)
        batch = encode_batch(self.engine, token_ids, tenants)
        self.reused += batch.reused
        return batch

    @property
    def asked(self) -> int:
        """Requests that its gateways have."""
        return sum(service.active for service in self.services)

    async def embed(self, replica: str, envelope: Envelope) -> ChunkReply:
        return await self.chunks.embed(envelope)

    @asynccontextmanager
    async def gateways(self, count: int, **options: Any) -> AsyncIterator[list[httpx.AsyncClient]]:
        """Clients of so many gateways in front of it."""
        clients, dispatchers = [], []
        for number in range(count):
            view = ReplicaSet(slots_per_class=8)
            view.set_replicas(["one"])
            dispatchers.append(
                Dispatcher(view, Wire(self.embed), gateway=f"g{number}", hidden_size=HIDDEN, policy=POLICY)
            )
            service = EmbeddingService(
                ServedModel(MODEL, HIDDEN, 512),
                Limits(),
                JobTokenizer(tokenizer(), Limits(), 1280),
                Answers(dispatchers[-1], model="", hidden_size=HIDDEN, **options),
                cast(ReplicaHealth, None),
                Admission(Bounds(10.0, 100_000, 100_000), 2048),
                Timeouts(300.0, 0.05, 3600.0),
            )
            self.services.append(service)
            app = build_app(service, guard=Gate(Keys(KEYS), ShareLimiter()))
            clients.append(httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test"))
        try:
            yield clients
        finally:
            self.may_go_on.set()
            for dispatcher in dispatchers:
                await dispatcher.close()
            await self.batcher.close()
            for client in clients:
                await client.aclose()


async def vectors(client: httpx.AsyncClient, name: str, *texts: str) -> np.ndarray:
    reply = await client.post(
        "/v1/embeddings",
        json={"model": MODEL, "input": list(texts)},
        headers={"authorization": f"Bearer {name}-secret"},
    )
    assert reply.status_code == 200, reply.text
    return np.array([row["embedding"] for row in reply.json()["data"]], np.float32)


@pytest.mark.parametrize(("shared", "rows"), [(False, 2), (True, 1)])
async def test_equal_texts_of_two_keys_are_computed_for_each_unless_configured(shared: bool, rows: int) -> None:
    replica = Replica()
    async with replica.gateways(2, share_between_keys=shared) as clients:
        first = asyncio.create_task(vectors(clients[0], "a", "something else"))
        while not replica.computed:  # noqa: ASYNC110 - it is on another thread
            await asyncio.sleep(0.001)
        # Of each key one through either gateway, so that only the replica can bring them together.
        asked = [asyncio.create_task(vectors(client, name, QUERY)) for client in clients for name in ("a", "b")]
        sent = 2 if shared else 4  # where keys share, a gateway sends one of its two
        while replica.asked < 1 + len(asked) or len(replica.batcher.queue) < sent:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        replica.may_go_on.set()
        answers = await asyncio.gather(first, *asked)
    assert len(replica.computed) == 2
    assert len(replica.computed[1]) == rows
    for answer in answers[1:]:
        assert_same(answer, expected([QUERY]))


@pytest.mark.parametrize(("shared", "spared"), [(False, False), (True, True)])
async def test_a_prefix_of_one_key_does_not_make_another_faster_unless_configured(shared: bool, spared: bool) -> None:
    replica = Replica()
    replica.may_go_on.set()
    instruction = "Instruct: find what callers of a service might learn from one another\nQuery: "
    async with replica.gateways(1, share_between_keys=shared) as [client]:
        await vectors(client, "a", *(instruction + letter * 9 for letter in "bcdfghjk"))
        replica.reused.clear()
        texts = [instruction + "other", instruction + "more"]
        assert_same(await vectors(client, "b", *texts), expected(texts))
        assert any(replica.reused) is spared
        replica.reused.clear()
        await vectors(client, "a", *texts)
        assert all(replica.reused)
