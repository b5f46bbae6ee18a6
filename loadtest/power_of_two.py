"""The emulated service with Serve's own routing in the place of the dispatcher, to compare against.

Each request is one `handle.remote()` of all its inputs, sent at once to a replica that Serve's default router chooses: of two random
ones, the one with fewer requests under way. HTTP surface, tokenizer, replicas, their batcher and the devices are the same
(`loadtest.emulated`); there is no merging of requests, no cutting into chunks, no slots, no admission and no sending again.

python -m loadtest.emulated_up --build loadtest.power_of_two:build --set device.inputs_per_second=100
"""

# No `from __future__ import annotations`: Serve reads the annotation of `build` to validate its arguments.

import gc
import time
from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
from ray import serve
from ray.serve.handle import DeploymentHandle

from loadtest.emulated import EmulatedEmbedder, EmulatedSettings
from serve_app.api.app import build_app
from serve_app.cluster.admission import Admission
from serve_app.cluster.gateway import GC_THRESHOLDS, own_request_id
from serve_app.cluster.graph import EMBEDDER_CONCURRENCY, GATEWAY_CONCURRENCY
from serve_app.cluster.ports import Backlog
from serve_app.cluster.served import open_model
from serve_app.cluster.service import EmbeddingService
from serve_app.cluster.serving import bounds, timeouts
from serve_app.cluster.ticket import Embedded
from serve_app.cluster.tokenize import JobTokenizer
from serve_app.config import default_tokens
from serve_app.telemetry.logs import configure_logging
from serve_app.types import ChunkReply, Envelope, Output, Priority, TokenIds


class OneCallEach:
    """What the service takes for its dispatcher: one call a request."""

    def __init__(self, embedder: DeploymentHandle[Any], gateway: str, model: str) -> None:
        # As the product's transport does: the comparison is of routing, not of serialization.
        self._embed = embedder.options(
            method_name="embed", request_serialization="pickle", response_serialization="pickle"
        )
        self._gateway = gateway
        self._model = model
        self._ids = count(1)

    async def embed(
        self, token_ids: Sequence[TokenIds], *, priority: Priority, deadline: float, tenant: str = ""
    ) -> Embedded:
        """The vectors of one request's inputs. Raises the error of the first that failed."""
        n = len(token_ids)
        envelope = Envelope(
            gateway=self._gateway,
            model=self._model,
            ids=np.array([next(self._ids) for _ in token_ids], np.uint64),
            token_ids=np.concatenate(token_ids, dtype=np.int32),
            lengths=np.array([len(ids) for ids in token_ids], np.int32),
            time_left=np.full(n, deadline - time.monotonic(), np.float32),
            priority=np.full(n, priority, np.uint8),
            output=np.full(n, Output.POOLED, np.uint8),
        )
        reply: ChunkReply = await self._embed.remote(envelope)
        if reply.errors:
            raise reply.errors[min(reply.errors)]
        return Embedded(reply.vectors, reply.queue_seconds, reply.inference_seconds)

    def backlog(self) -> Backlog:
        """None that is known here: everything is admitted."""
        return Backlog()


class AnyReplica:
    """Health: whether some replica answers a ping."""

    def __init__(self, embedder: DeploymentHandle[Any]) -> None:
        self._ping = embedder.options(method_name="ping")

    async def reason(self) -> str | None:
        """None, or why not."""
        try:
            await self._ping.remote()
        except Exception as error:
            return type(error).__name__
        return None


@serve.ingress()
class PowerOfTwoGateway:
    """The product's gateway in everything but its dispatcher."""

    def __init__(self, settings: EmulatedSettings, embedder: DeploymentHandle[Any]) -> None:
        configure_logging()
        gc.set_threshold(*GC_THRESHOLDS)
        model = open_model(settings)
        limits = settings.limits.as_limits()
        vocabulary = model.checkpoint.config.vocab_size
        tokenizer = JobTokenizer(model.tokenizer, limits, vocabulary, settings.token_ids, settings.tiktoken_file)
        gateway = serve.get_replica_context().replica_id.unique_id
        self._service = EmbeddingService(
            model.served,
            limits,
            tokenizer,
            OneCallEach(embedder, gateway, model.fingerprint),  # type: ignore[arg-type]
            AnyReplica(embedder),  # type: ignore[arg-type]
            Admission(bounds(settings), default_tokens(0)),
            timeouts(settings),
        )

    async def drain(self) -> None:
        """As the product's."""
        await self._service.drain()

    def __serve_build_asgi_app__(self) -> Any:
        return own_request_id(build_app(self._service))


def build(settings: EmulatedSettings) -> serve.Application:
    """The application, on CPU."""
    logging_config: dict[str, Any] = {"enable_access_log": False, "log_level": "WARNING"}
    embedder = serve.deployment(EmulatedEmbedder).options(
        name="Embedder",
        num_replicas=settings.replicas,
        max_ongoing_requests=EMBEDDER_CONCURRENCY,
        ray_actor_options={"num_cpus": settings.num_cpus},
        logging_config=logging_config,
    )
    gateway = serve.deployment(PowerOfTwoGateway).options(
        name="Gateway",
        num_replicas=settings.gateways,
        max_ongoing_requests=GATEWAY_CONCURRENCY,
        ray_actor_options={"num_cpus": settings.gateway_num_cpus},
        logging_config=logging_config,
    )
    return gateway.bind(settings, embedder.bind(settings, 0))
