"""A gateway's metrics: what it counts at each request, looks up every second, and answers `GET /metrics` with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from prometheus_client import Metric
from ray import serve

from serve_app.api.app import Outcome
from serve_app.api.http import Reply, Request
from serve_app.api.routing import OPS, Access, Route
from serve_app.cluster.counters import Counters
from serve_app.cluster.dispatcher import Dispatcher
from serve_app.cluster.service import EmbeddingService
from serve_app.cluster.tasks import TaskGroup
from serve_app.errors import UnavailableError
from serve_app.telemetry.exposition import Derived, render
from serve_app.telemetry.gateway_metrics import GatewayMetrics
from serve_app.telemetry.key_metrics import KeyMetrics
from serve_app.telemetry.nodes import Nodes
from serve_app.telemetry.snapshot import Series
from serve_app.telemetry.tracing import record_stages, traced

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0

# The controller may be restarting; the rest of the metrics doesn't wait for it.
STATUS_SECONDS = 1.0


class GatewayTelemetry:
    """`derived` are families computed from the others whenever they are shown; `kept_bytes` tells what the response cache takes.
    `public` shows them to everybody."""

    def __init__(
        self,
        metrics: GatewayMetrics,
        nodes: Nodes,
        dispatcher: Dispatcher,
        application: str,
        derived: Sequence[Derived] = (),
        kept_bytes: Callable[[], int] = lambda: 0,
        keys: KeyMetrics | None = None,
        public: bool = False,
    ) -> None:
        self._keys = keys
        self._metrics = metrics
        self._nodes = nodes
        self._dispatcher = dispatcher
        self._application = application
        self._derived = derived
        self._kept_bytes = kept_bytes
        self._before = Counters()
        self._traced = traced()
        self._tasks = TaskGroup()
        self._status: asyncio.Task[list[Metric]] | None = None
        self.route = Route(
            "GET",
            "/metrics",
            self.show,
            "Prometheus metrics of the whole cluster",
            {200: "text/plain"},
            access=Access.PUBLIC if public else Access.ADMIN,
        )

    def observe(self, outcome: Outcome) -> None:
        """Count a request that is about to be answered; in its own task, so that Serve's span for it is the current one."""
        if outcome.prompt_tokens:
            self._metrics.answered(
                outcome.dialect,
                outcome.model,
                outcome.inputs,
                outcome.prompt_tokens,
                outcome.seconds,
                outcome.stage_seconds,
            )
            if outcome.key and self._keys is not None:
                self._keys.billed(outcome.key, outcome.model, outcome.inputs, outcome.prompt_tokens)
        elif outcome.status == UnavailableError.status and outcome.dialect != OPS:
            self._metrics.rejected("unavailable")
        self._metrics.ended(outcome.dialect, outcome.model, outcome.status)
        if self._traced:
            record_stages(
                outcome.stage_seconds,
                request_id=outcome.request_id,
                model=outcome.model,
                inputs=outcome.inputs,
                prompt_tokens=outcome.prompt_tokens,
            )

    async def show(self, request: Request) -> Reply:
        """`GET /metrics`."""
        total, replicas = await asyncio.gather(self._nodes.total(), self._replicas())

        def states(_: Mapping[Series, float]) -> Iterable[Metric]:
            return replicas

        accept = request.accept.decode("latin-1")
        body, content_type = await asyncio.to_thread(render, total, accept, [states, *self._derived])
        return Reply(200, body, content_type.encode())

    def start(self, service: EmbeddingService) -> None:
        """Look every second from now on, on the running loop; and after the nodes."""
        self._tasks.spawn(self._nodes.keep())
        self._tasks.spawn(self._tick(service))

    async def stop(self) -> None:
        """Look no more."""
        await self._tasks.cancel()

    def look(self, active: int) -> None:
        """Take down what is the case rather than happens, and what seldom happens. `active` requests are being worked on."""
        metrics, dispatcher, before = self._metrics, self._dispatcher, self._before
        metrics.queue.set(dispatcher.queued_inputs, dispatcher.queued_tokens, dispatcher.oldest_age())
        metrics.in_flight.set(active)
        metrics.cache_bytes.set(self._kept_bytes())
        now = replace(dispatcher.counters)
        metrics.retries["death"].inc(now.retries - before.retries)
        metrics.retries["silence"].inc(now.duplicates - before.duplicates)
        metrics.cancelled.inc(now.cancelled - before.cancelled)
        self._before = now

    async def _tick(self, service: EmbeddingService) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                self.look(service.active)
            except Exception:
                logger.exception("The gateway's gauges could not be set")

    async def _replicas(self) -> list[Metric]:
        """`embedserve_replicas`, as Serve's controller tells it; nothing while that doesn't answer."""
        if self._status is None or self._status.done():
            self._status = asyncio.create_task(asyncio.to_thread(replica_states, self._application))
        try:
            async with asyncio.timeout(STATUS_SECONDS):
                return await asyncio.shield(self._status)
        except Exception as error:
            logger.warning("Serve's controller didn't say how many replicas there are: %r", error)
            return []


def replica_states(application: str) -> list[Metric]:
    """How many replicas of each deployment are in which state. Blocks."""
    metric = Metric("embedserve_replicas", "Replicas by Serve's state.", "gauge")
    status = serve.status().applications.get(application)
    for deployment, found in status.deployments.items() if status is not None else ():
        # RUNNING is always there, so that none at all shows as 0.
        for state, number in {"RUNNING": 0, **found.replica_states}.items():
            labels = {"deployment": deployment, "state": str(getattr(state, "value", state)).lower()}
            metric.add_sample(metric.name, labels, number)
    return [metric]
