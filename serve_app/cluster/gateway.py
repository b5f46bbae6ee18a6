"""A gateway replica: the HTTP surface, wired to this gateway's tokenizer, dispatcher and view of the replicas."""

from __future__ import annotations

import gc
import platform
import random
from functools import partial
from typing import Any

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app import __version__
from serve_app.api.app import App, build_app
from serve_app.api.routes import DIALECTS
from serve_app.cluster.admission import Admission, Bounds
from serve_app.cluster.answers import Answers
from serve_app.cluster.dispatcher import Dispatcher
from serve_app.cluster.feed import feed_of
from serve_app.cluster.gateway_telemetry import GatewayTelemetry
from serve_app.cluster.guarding import Guarding
from serve_app.cluster.health import ReplicaHealth
from serve_app.cluster.ledger import Ledger, store_of
from serve_app.cluster.live import LiveSettings
from serve_app.cluster.outlook import Outlook
from serve_app.cluster.replicas import ReplicaSet
from serve_app.cluster.request_log import logging_too
from serve_app.cluster.rules import DispatchRules
from serve_app.cluster.served import open_model, run_with
from serve_app.cluster.service import EmbeddingService, Timeouts
from serve_app.cluster.silence import SilencePolicy
from serve_app.cluster.start_failures import StartFailures
from serve_app.cluster.tasks import TaskGroup
from serve_app.cluster.tokenize import JobTokenizer
from serve_app.cluster.transport import HandleTransport
from serve_app.cluster.usage import pricing, usage_route
from serve_app.cluster.vitals import vitals
from serve_app.config import GATEWAY_LIVE, Settings, default_tokens
from serve_app.engine.queue import QueuePolicy
from serve_app.telemetry.cost_metrics import cost_metrics
from serve_app.telemetry.families import set_build_info
from serve_app.telemetry.gateway_metrics import GatewayMetrics
from serve_app.telemetry.key_metrics import KeyMetrics
from serve_app.telemetry.lifetime import Lifetime
from serve_app.telemetry.logs import configure_logging
from serve_app.telemetry.nodes import Nodes
from serve_app.telemetry.process import count_in
from serve_app.types import Ping

# A request leaves hardly any cycles behind; collecting after every 700 allocations costs an eighth of the gateway's time.
GC_THRESHOLDS = (50_000, 20, 100)


@serve.ingress()
class Gateway:
    """The Serve ingress deployment. Holds no state worth keeping: any gateway can answer any request."""

    def __init__(self, settings: Settings, num_gpus: float, embedder: DeploymentHandle[Any]) -> None:
        configure_logging(settings.log.format)
        gc.set_threshold(*GC_THRESHOLDS)
        model = open_model(settings)
        config = model.checkpoint.config
        limits = settings.limits.as_limits()
        tokenizer = JobTokenizer(model.tokenizer, limits, config.vocab_size, settings.token_ids, settings.tiktoken_file)
        replicas = ReplicaSet(slots_per_class=settings.dispatch.slots_per_replica, shuffle=random.shuffle)
        transport = HandleTransport(embedder)
        context = serve.get_replica_context()
        gateway = context.replica_id.unique_id
        dispatcher = Dispatcher(
            replicas,
            transport,
            gateway=gateway,
            model=model.fingerprint,
            hidden_size=config.hidden_size,
            rules=dispatch_rules(settings, num_gpus),
            policy=queue_policy(settings),
        )
        failures = StartFailures(context.app_name, "Embedder")
        may_sleep = settings.autoscaling.max_replicas is not None and settings.autoscaling.min_replicas == 0
        health = ReplicaHealth(
            transport,
            replicas,
            lambda: Ping(gateway, model.fingerprint, dispatcher.queued_tokens),
            may_sleep=may_sleep,
            why_none=failures.reason,
        )
        nodes = Nodes(context.app_name, settings.metrics.directory, settings.metrics.node_port)
        count_in(nodes.own)
        Lifetime("Gateway")
        set_build_info(version=__version__, python=platform.python_version(), ray=ray.__version__)
        metrics = GatewayMetrics([model.served.id], DIALECTS)
        feed_of("Embedder").subscribe(replicas.set_replicas)
        self._num_gpus = num_gpus
        self._model = model
        self._tokenizer = tokenizer
        self._replicas = replicas
        self._dispatcher = dispatcher
        self._admission = Admission(
            bounds(settings), dispatch_rules(settings, num_gpus).chunk_tokens, on_refused=metrics.rejected
        )
        # Of a pool that may sleep, no replica is no news, and what Serve last said of it may be old.
        outlook = None if may_sleep else Outlook(dispatcher, replicas, failures.hopeless)
        self._answers = Answers(
            outlook or dispatcher,
            model=model.fingerprint,
            hidden_size=config.hidden_size,
            share=settings.batch.share_duplicates,
            share_between_keys=settings.cache.share_between_keys,
            on_kept=partial(metrics.looked_up, model.served.id),
            on_spared=partial(metrics.spared, model.served.id),
        )
        self._answers.resize(settings.cache.max_mb * 2**20)
        self._service = EmbeddingService(
            run_with(model.served, settings, num_gpus),
            limits,
            tokenizer,
            self._answers,
            health,
            self._admission,
            timeouts(settings),
        )
        prices = pricing(settings.cost)
        keys = KeyMetrics()
        self._guarding = Guarding(settings, context.app_name, keys) if settings.auth.on else None
        derived = [cost_metrics(prices)]
        self._telemetry = GatewayTelemetry(
            metrics,
            nodes,
            dispatcher,
            context.app_name,
            derived,
            lambda: self._answers.kept_bytes,
            keys,
            settings.auth.metrics_public,
        )
        self._nodes = nodes
        self._ledger = Ledger(store_of(settings.ledger, context.app_name), nodes.own, keys.ledger_failed)
        self._extra_routes = [self._telemetry.route, usage_route(nodes.by_directory, prices, self._ledger)]
        self._observe = logging_too(self._telemetry.observe, settings.log.requests)
        self._telemetry.start(self._service)
        self._tasks = TaskGroup()
        self._tasks.spawn(self._ledger.keep(nodes.by_directory))
        if outlook is not None:
            self._tasks.spawn(outlook.keep())
        if self._guarding is not None:
            self._tasks.spawn(self._guarding.keys.watch())
        self._app = self._built()
        self._live = LiveSettings(settings, GATEWAY_LIVE, self._apply)

    async def drain(self) -> None:
        """Refuse new requests; return once the accepted ones are computed."""
        await self._service.drain()
        await self._ledger.save_now(self._nodes.by_directory)

    async def vitals(self) -> dict[str, int]:
        """See `vitals`; and the tokens that wait here and those sent and not answered yet."""
        held = {"queued_tokens": self._dispatcher.queued_tokens, "in_flight_tokens": self._dispatcher.in_flight_tokens}
        return vitals() | held

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve's way to change settings without a restart; see `LiveSettings.change`."""
        self._live.change(user_config)

    def __serve_build_asgi_app__(self) -> Any:
        async def latest(scope: Any, receive: Any, send: Any) -> None:
            await self._app(scope, receive, send)

        return own_request_id(latest)

    def _apply(self, settings: Settings, before: Settings) -> None:
        served = run_with(self._model.served_up_to(settings.limits.max_input_tokens), settings, self._num_gpus)
        limits = settings.limits.as_limits()
        self._tokenizer.limits = limits
        self._service.limits = limits
        self._service.models = (served,)
        self._replicas.slots_per_class = settings.dispatch.slots_per_replica
        rules = dispatch_rules(settings, self._num_gpus)
        self._dispatcher.configure(rules, queue_policy(settings))
        self._admission.bounds, self._admission.chunk_tokens = bounds(settings), rules.chunk_tokens
        self._service.timeouts = timeouts(settings)
        self._answers.share = settings.batch.share_duplicates
        self._answers.share_between_keys = settings.cache.share_between_keys
        self._answers.resize(settings.cache.max_mb * 2**20)
        # The app reads limits and models when it is built; requests that it has stay with the one they came to.
        self._app = self._built()

    def _built(self) -> App:
        gate = self._guarding.gate if self._guarding is not None else None
        return build_app(self._service, self._extra_routes, self._observe, gate)


def dispatch_rules(settings: Settings, num_gpus: float) -> DispatchRules:
    """What the settings say of dispatching; the size of a chunk goes by the device unless it is set."""
    dispatch = settings.dispatch
    return DispatchRules(
        chunk_tokens=dispatch.chunk_tokens or default_tokens(num_gpus),
        chunk_inputs=dispatch.chunk_inputs,
        max_deaths=dispatch.max_deaths,
        retry_budget=dispatch.retry_budget,
        silence=SilencePolicy(dispatch.silence_seconds, dispatch.silence_multiple),
    )


def queue_policy(settings: Settings) -> QueuePolicy:
    """The order in which inputs are sent."""
    return QueuePolicy(bulk_patience_s=settings.batch.bulk_patience_seconds)


def bounds(settings: Settings) -> Bounds:
    """When requests are refused."""
    return Bounds(**settings.admission.model_dump())


def timeouts(settings: Settings) -> Timeouts:
    """How long requests may take."""
    dispatch = settings.dispatch
    return Timeouts(
        dispatch.request_timeout_seconds, dispatch.min_request_timeout_seconds, dispatch.max_request_timeout_seconds
    )


def own_request_id(app: Any) -> Any:
    """Serve puts `x-request-id` on every response, the one our app has read from the request; don't say it twice."""

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        async def send_once(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [pair for pair in message["headers"] if pair[0] != b"x-request-id"]
            await send(message)

        await app(scope, receive, send_once)

    return asgi
