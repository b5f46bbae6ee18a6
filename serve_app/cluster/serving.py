"""One gateway's way from a job to its vectors, wired from the settings and rewired when they change."""

from __future__ import annotations

import random
from functools import partial

from serve_app.cluster.admission import Admission, Bounds
from serve_app.cluster.answers import Answers
from serve_app.cluster.dispatcher import Dispatcher
from serve_app.cluster.health import ReplicaHealth
from serve_app.cluster.outlook import Outlook
from serve_app.cluster.replicas import ReplicaSet
from serve_app.cluster.rules import DispatchRules
from serve_app.cluster.served import OpenedModel, run_with
from serve_app.cluster.service import EmbeddingService, Timeouts
from serve_app.cluster.silence import SilencePolicy
from serve_app.cluster.start_failures import StartFailures
from serve_app.cluster.tasks import TaskGroup
from serve_app.cluster.tokenize import JobTokenizer
from serve_app.cluster.transport import HandleTransport
from serve_app.config import Settings, default_tokens
from serve_app.engine.queue import QueuePolicy
from serve_app.telemetry.gateway_metrics import GatewayMetrics
from serve_app.types import Ping


class Serving:
    """What of a gateway computes, for Embedders with `num_gpus` each. `gateway` is its name among others.

    Attributes: `service`, what the HTTP surface talks to; `dispatcher`; `answers`; `replicas`, to be told who there is.
    """

    def __init__(
        self,
        settings: Settings,
        num_gpus: float,
        model: OpenedModel,
        transport: HandleTransport,
        *,
        gateway: str,
        failures: StartFailures,
        metrics: GatewayMetrics,
    ) -> None:
        config = model.checkpoint.config
        limits = settings.limits.as_limits()
        self._num_gpus = num_gpus
        self._model = model
        self._tokenizer = JobTokenizer(
            model.tokenizer, limits, config.vocab_size, settings.token_ids, settings.tiktoken_file
        )
        self.replicas = ReplicaSet(slots_per_class=settings.dispatch.slots_per_replica, shuffle=random.shuffle)
        self.dispatcher = Dispatcher(
            self.replicas,
            transport,
            gateway=gateway,
            model=model.fingerprint,
            hidden_size=config.hidden_size,
            rules=dispatch_rules(settings, num_gpus),
            policy=queue_policy(settings),
        )
        may_sleep = settings.autoscaling.max_replicas is not None and settings.autoscaling.min_replicas == 0
        # Of a pool that may sleep, no replica is no news, and what Serve last said of it may be old.
        self._outlook = None if may_sleep else Outlook(self.dispatcher, self.replicas, failures.hopeless)
        self.answers = Answers(
            self._outlook or self.dispatcher,
            model=model.fingerprint,
            hidden_size=config.hidden_size,
            share=settings.batch.share_duplicates,
            share_between_keys=settings.cache.share_between_keys,
            on_kept=partial(metrics.looked_up, model.served.id),
            on_spared=partial(metrics.spared, model.served.id),
        )
        self.answers.resize(settings.cache.max_mb * 2**20)
        self._admission = Admission(
            bounds(settings), dispatch_rules(settings, num_gpus).chunk_tokens, on_refused=metrics.rejected
        )
        health = ReplicaHealth(
            transport,
            self.replicas,
            lambda: Ping(gateway, model.fingerprint, self.dispatcher.queued_tokens),
            may_sleep=may_sleep,
            why_none=failures.reason,
        )
        self.service = EmbeddingService(
            run_with(model.served, settings, num_gpus),
            limits,
            self._tokenizer,
            self.answers,
            health,
            self._admission,
            timeouts(settings),
        )

    def start(self, tasks: TaskGroup) -> None:
        """What has to run beside it runs in `tasks`."""
        if self._outlook is not None:
            tasks.spawn(self._outlook.keep())

    def apply(self, settings: Settings) -> None:
        """Go by other settings from now on. Raises `CheckpointError`, and has changed nothing then, for limits beyond the model's."""
        served = run_with(self._model.served_up_to(settings.limits.max_input_tokens), settings, self._num_gpus)
        limits = settings.limits.as_limits()
        self._tokenizer.limits = limits
        self.service.limits = limits
        self.service.models = (served,)
        self.replicas.slots_per_class = settings.dispatch.slots_per_replica
        rules = dispatch_rules(settings, self._num_gpus)
        self.dispatcher.configure(rules, queue_policy(settings))
        self._admission.bounds, self._admission.chunk_tokens = bounds(settings), rules.chunk_tokens
        self.service.timeouts = timeouts(settings)
        self.answers.share = settings.batch.share_duplicates
        self.answers.share_between_keys = settings.cache.share_between_keys
        self.answers.resize(settings.cache.max_mb * 2**20)


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
