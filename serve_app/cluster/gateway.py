"""A gateway replica: the HTTP surface, wired to this gateway's tokenizer, dispatcher and view of the replicas."""

from __future__ import annotations

import gc
import platform
from typing import Any

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app import __version__
from serve_app.api.app import App, build_app
from serve_app.api.routes import DIALECTS
from serve_app.cluster.feed import feed_of
from serve_app.cluster.gateway_telemetry import GatewayTelemetry
from serve_app.cluster.guarding import Guarding
from serve_app.cluster.ledger import Ledger, store_of
from serve_app.cluster.live import LiveSettings
from serve_app.cluster.request_log import logging_too
from serve_app.cluster.served import open_model
from serve_app.cluster.serving import Serving
from serve_app.cluster.start_failures import StartFailures
from serve_app.cluster.tasks import TaskGroup
from serve_app.cluster.transport import HandleTransport
from serve_app.cluster.usage import pricing, usage_route
from serve_app.cluster.vitals import vitals
from serve_app.config import GATEWAY_LIVE, Settings
from serve_app.telemetry.cost_metrics import cost_metrics
from serve_app.telemetry.families import set_build_info
from serve_app.telemetry.gateway_metrics import GatewayMetrics
from serve_app.telemetry.key_metrics import KeyMetrics
from serve_app.telemetry.lifetime import Lifetime
from serve_app.telemetry.logs import configure_logging
from serve_app.telemetry.nodes import Nodes
from serve_app.telemetry.process import count_in

# A request leaves hardly any cycles behind; collecting after every 700 allocations costs an eighth of the gateway's time.
GC_THRESHOLDS = (50_000, 20, 100)


@serve.ingress()
class Gateway:
    """The Serve ingress deployment. Holds no state worth keeping: any gateway can answer any request."""

    def __init__(self, settings: Settings, num_gpus: float, embedder: DeploymentHandle[Any]) -> None:
        configure_logging(settings.log.format)
        gc.set_threshold(*GC_THRESHOLDS)
        model = open_model(settings)
        context = serve.get_replica_context()
        nodes = Nodes(context.app_name, settings.metrics.directory, settings.metrics.node_port)
        count_in(nodes.own)
        Lifetime("Gateway")
        set_build_info(version=__version__, python=platform.python_version(), ray=ray.__version__)
        metrics = GatewayMetrics([model.served.id], DIALECTS)
        serving = Serving(
            settings,
            num_gpus,
            model,
            HandleTransport(embedder),
            gateway=context.replica_id.unique_id,
            failures=StartFailures(context.app_name, "Embedder"),
            metrics=metrics,
        )
        feed_of("Embedder").subscribe(serving.replicas.set_replicas)
        prices = pricing(settings.cost)
        keys = KeyMetrics()
        self._serving = serving
        self._guarding = Guarding(settings, context.app_name, keys) if settings.auth.on else None
        derived = [cost_metrics(prices)]
        self._telemetry = GatewayTelemetry(
            metrics,
            nodes,
            serving.dispatcher,
            context.app_name,
            derived,
            lambda: serving.answers.kept_bytes,
            keys,
            settings.auth.metrics_public,
        )
        self._nodes = nodes
        self._ledger = Ledger(store_of(settings.ledger, context.app_name), nodes.own, keys.ledger_failed)
        self._extra_routes = [self._telemetry.route, usage_route(nodes.by_directory, prices, self._ledger)]
        self._observe = logging_too(self._telemetry.observe, settings.log.requests)
        self._telemetry.start(serving.service)
        self._tasks = TaskGroup()
        self._tasks.spawn(self._ledger.keep(nodes.by_directory))
        serving.start(self._tasks)
        if self._guarding is not None:
            self._tasks.spawn(self._guarding.keys.watch())
        self._app = self._built()
        self._live = LiveSettings(settings, GATEWAY_LIVE, self._apply)

    async def drain(self) -> None:
        """Refuse new requests; return once the accepted ones are computed."""
        await self._serving.service.drain()
        await self._ledger.save_now(self._nodes.by_directory)

    async def vitals(self) -> dict[str, int]:
        """See `vitals`; and the tokens that wait here and those sent and not answered yet."""
        dispatcher = self._serving.dispatcher
        held = {"queued_tokens": dispatcher.queued_tokens, "in_flight_tokens": dispatcher.in_flight_tokens}
        return vitals() | held

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve's way to change settings without a restart; see `LiveSettings.change`."""
        self._live.change(user_config)

    def __serve_build_asgi_app__(self) -> Any:
        async def latest(scope: Any, receive: Any, send: Any) -> None:
            await self._app(scope, receive, send)

        return own_request_id(latest)

    def _apply(self, settings: Settings, before: Settings) -> None:
        self._serving.apply(settings)
        # The app reads limits and models when it is built; requests that it has stay with the one they came to.
        self._app = self._built()

    def _built(self) -> App:
        gate = self._guarding.gate if self._guarding is not None else None
        return build_app(self._serving.service, self._extra_routes, self._observe, gate)


def own_request_id(app: Any) -> Any:
    """Serve puts `x-request-id` on every response, the one our app has read from the request; don't say it twice."""

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        async def send_once(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [pair for pair in message["headers"] if pair[0] != b"x-request-id"]
            await send(message)

        await app(scope, receive, send_once)

    return asgi
