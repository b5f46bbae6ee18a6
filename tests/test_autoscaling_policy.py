"""Serve's side of autoscaling: the context read, the state kept, the configuration sent."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray import serve
from ray.serve._private.autoscaling_state import _resolve_policy_callable
from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve._private.config import DeploymentConfig
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy
from ray.serve.deployment import deployment_to_schema
from ray.serve.schema import DeploymentSchema

from serve_app.cluster.autoscaling import Memory, Parameters, ReplicaLoad
from serve_app.cluster.autoscaling_policy import (
    COMPUTED,
    HELD_BACK,
    QUEUED,
    RATE,
    RUNNING,
    BacklogPolicy,
    embedder_count,
    observe,
)
from serve_app.cluster.graph import build
from serve_app.config import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SERVE_YAML = (ROOT / "deploy" / "serve.yaml").read_text(encoding="utf-8")
DEPLOYMENT = DeploymentID("Embedder", "embedserve")
SCALED = Settings(num_gpus=0, replicas=2, autoscaling={"max_replicas": 4})
Series = Mapping[str, Sequence[float]]


def config_of(settings: Settings) -> AutoscalingConfig:
    config = embedder_count(settings)["autoscaling_config"]
    assert isinstance(config, AutoscalingConfig)
    return config


def context(
    now: float,
    *replicas: Series,
    running: int | None = None,
    target: int = 1,
    state: dict[str, Any] | None = None,
    waiting: float = 0.0,
    bounds: tuple[int, int] = (1, 4),
    every: float = 0.5,
) -> AutoscalingContext:
    """What Serve hands over; each replica's values are `every` seconds apart and end `now`, by a clock that is an hour late."""
    metrics: dict[str, dict[ReplicaID, list[TimeStampedValue]]] = {}
    for number, series in enumerate(replicas):
        for name, values in series.items():
            start = now - 3600 - every * (len(values) - 1)
            metrics.setdefault(name, {})[ReplicaID(str(number), DEPLOYMENT)] = [
                TimeStampedValue(start + every * i, value) for i, value in enumerate(values)
            ]
    count = len(replicas) if running is None else running
    return AutoscalingContext(
        deployment_id=DEPLOYMENT,
        deployment_name="Embedder",
        app_name="embedserve",
        current_num_replicas=count,
        target_num_replicas=target,
        running_replicas=[ReplicaID(str(number), DEPLOYMENT) for number in range(count)],
        total_num_requests=lambda: waiting,
        total_queued_requests=lambda: waiting,
        aggregated_metrics=lambda: {},
        raw_metrics=lambda: metrics,
        capacity_adjusted_min_replicas=bounds[0],
        capacity_adjusted_max_replicas=bounds[1],
        policy_state=state or {},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=now,
        config=config_of(SCALED),
    )


def replica(
    running: Sequence[float] = (0.0,),
    queued: Sequence[float] = (0.0,),
    computed: Sequence[float] = (0.0,),
    rate: float = 1000.0,
    held: Sequence[float] = (0.0,),
) -> Series:
    return {RUNNING: running, QUEUED: queued, COMPUTED: computed, RATE: [rate] * len(running), HELD_BACK: held}


def test_arrivals_are_what_was_computed_and_what_has_come_to_wait() -> None:
    seen = observe(
        context(100.0, replica([0, 200, 200], [0, 300, 600], [0, 500, 1000], held=[0, 50, 2000]), target=3), 1.0
    )
    assert seen.replicas == (ReplicaLoad(200, 600, 1000, 1800),)
    assert (seen.held_back_tokens, seen.held_back_growth) == (2000, 2000)
    assert (seen.running_replicas, seen.target_replicas, seen.time) == (1, 3, 100.0)


def test_only_the_last_interval_counts() -> None:
    computed = [0, 10_000, 10_000, 10_100, 10_200]
    seen = observe(context(0.0, replica([0] * 5, [0] * 5, computed, held=[0] * 5)), 1.0)
    assert seen.replicas[0].arrived_per_second == 200
    seen = observe(context(0.0, replica([0] * 5, [0] * 5, computed, held=[0] * 5)), 0.5)
    assert seen.replicas[0].arrived_per_second == 200
    seen = observe(context(0.0, replica([7], [8], [9], held=[10])), 1.0)
    assert seen.replicas[0].arrived_per_second == 0


def test_what_gateways_hold_back_is_not_added_up_over_the_replicas_that_heard_it() -> None:
    heard = [[300, 500, 1000], [200, 500, 900], [0, 0, 0]]
    seen = observe(context(0.0, *(replica([0] * 3, [0] * 3, [0] * 3, held=held) for held in heard)), 1.0)
    assert seen.held_back_tokens == 1000
    assert seen.held_back_growth == 700


def test_replicas_that_just_started_and_hear_of_a_backlog_are_no_growth_of_it() -> None:
    heard = [[9000, 9100, 9200], [0, 0, 9100], [0, 9150]]
    seen = observe(context(0.0, *(replica([0] * 3, [0] * 3, [0] * 3, held=held) for held in heard)), 1.0)
    assert (seen.held_back_tokens, seen.held_back_growth) == (9200, 200)


def test_a_replica_that_has_not_published_everything_is_left_out() -> None:
    started = {name: values for name, values in replica().items() if name != HELD_BACK}
    assert len(observe(context(0.0, replica(), started, running=2), 1.0).replicas) == 1
    assert observe(context(0.0, running=2), 1.0).replicas == ()


def overload(second: int) -> Series:
    """8,000 tokens a second come to one replica that does 1,000."""
    return replica(
        [500] * 3,
        [1000] * 3,
        [1000 * max(0.0, second - back) for back in (1, 0.5, 0)],
        held=[7000 * max(0.0, second - back) for back in (1, 0.5, 0)],
    )


def test_serve_gets_a_decision_once_an_interval_and_without_its_own_delays(caplog: pytest.LogCaptureFixture) -> None:
    # As Serve wraps it: factors, delays and the way from zero are its.
    policy = _apply_autoscaling_config(_resolve_policy_callable(config_of(SCALED).policy))
    state: dict[str, Any] = {}
    decided = []
    caplog.set_level("INFO", "ray.serve")
    for tick in range(51):
        now = 1000 + tick / 10
        wanted, state = policy(context(now, overload(tick // 10), target=1, state=state, bounds=(1, 4)))
        decided.append((tick, wanted))
    assert decided[0] == (0, 2), "what it starts with"
    changes = [tick for tick, wanted in decided[1:] if wanted != 1]
    assert {wanted for _, wanted in decided[1:]} == {1, 4}
    assert changes[0] <= 40
    assert all(later - earlier >= 9 for earlier, later in pairwise(changes)), "in between Serve hears its own number"
    said = [message for message in caplog.messages if message.startswith("Autoscaling from")]
    assert len(said) == len(changes) + 1, "nothing is said while nothing changes"
    assert "from 1 to 4: 1 run and do 1000 tokens/s when busy, 8000 tokens/s arrive" in said[-1]


def test_the_bounds_are_those_that_serve_gives() -> None:
    policy = BacklogPolicy(max_replicas=100, upscale_delay_seconds=0)
    state: dict[str, Any] = {}
    for second in range(6):
        wanted, state = policy(context(second, overload(second), state=state, bounds=(1, 3)))
    assert wanted == 3
    state = {}
    assert policy(context(0.0, target=0, state=state, bounds=(0, 3)))[0] == 0
    assert policy(context(0.0, target=0, waiting=1.0, state={"memory": Memory(-9.0)}, bounds=(0, 3)))[0] == 1


def test_a_sleeping_pool_wakes_by_one_waiting_call_at_once() -> None:
    policy = _apply_autoscaling_config(_resolve_policy_callable(config_of(SCALED).policy))
    asleep = {"memory": Memory(99.95)}
    assert policy(context(100.0, target=0, state=asleep, bounds=(0, 4)))[0] == 0
    wanted, state = policy(context(100.0, target=0, waiting=0.2, state=asleep, bounds=(0, 4)))
    assert wanted == 1
    assert policy(context(105.0, target=1, state=state, bounds=(0, 4)))[0] == 1, "kept while it starts"


def test_it_is_off_by_default() -> None:
    assert embedder_count(Settings(replicas=3)) == {"num_replicas": 3}


def test_the_configuration_says_what_the_settings_say() -> None:
    settings = Settings(
        replicas=2,
        autoscaling={"max_replicas": 7, "min_replicas": 1, "interval_seconds": 0.5, "target_backlog_seconds": 3.0},
        admission={"max_wait_seconds": 20},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = config_of(settings)
    assert (config.min_replicas, config.initial_replicas, config.max_replicas) == (1, None, 7)
    assert config.metrics_interval_s == 0.5
    assert config.look_back_period_s > config.metrics_interval_s
    assert (config.upscale_delay_s, config.downscale_delay_s, config.downscale_to_zero_delay_s) == (0, 0, 0)
    policy = _resolve_policy_callable(config.policy)
    assert policy._parameters == Parameters(
        max_replicas=7, initial_replicas=2, interval_seconds=0.5, target_backlog_seconds=3.0, max_wait_seconds=20.0
    )


def test_a_pool_that_may_sleep_is_started_all_the_same() -> None:
    config = config_of(Settings(autoscaling={"max_replicas": 2, "min_replicas": 0}))
    assert (config.min_replicas, config.initial_replicas) == (0, 1)


def embedder_of(settings: Settings) -> serve.Deployment:
    gateway = build(settings)._bound_deployment
    embedders = [arg._bound_deployment for arg in gateway.init_args if isinstance(arg, serve.Application)]
    assert [embedder.name for embedder in embedders] == ["Embedder"]
    return embedders[0]


def test_the_graph_scales_the_embedder_only_when_asked_to() -> None:
    assert embedder_of(Settings(num_gpus=0, replicas=3)).num_replicas == 3
    assert embedder_of(Settings(num_gpus=0, replicas=3))._deployment_config.autoscaling_config is None
    assert embedder_of(SCALED)._deployment_config.autoscaling_config == config_of(SCALED)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_policy_reaches_a_controller_that_lacks_this_package(tmp_path: Path) -> None:
    sent = embedder_of(SCALED)._deployment_config.to_proto_bytes()
    received = DeploymentConfig.from_proto_bytes(sent).autoscaling_config
    assert received is not None
    assert received.policy.policy_kwargs == config_of(SCALED).policy.policy_kwargs
    (tmp_path / "policy").write_bytes(received.policy.get_serialized_policy_def() or b"")
    script = """
import sys
sys.modules["serve_app"] = None
from ray import cloudpickle
policy = cloudpickle.load(open(sys.argv[1], "rb"))(max_replicas=3, initial_replicas=2)
class Context:
    current_time, current_num_replicas, target_num_replicas, policy_state, raw_metrics, total_num_requests = 0.0, 1, 1, {}, {}, 0.0
    capacity_adjusted_min_replicas, capacity_adjusted_max_replicas = 1, 3
print(policy(Context)[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "policy")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "2\n"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_policy_survives_a_config_file() -> None:
    written = yaml.safe_dump(json.loads(deployment_to_schema(embedder_of(SCALED)).model_dump_json(exclude_unset=True)))
    read = DeploymentSchema.model_validate(yaml.safe_load(written)).autoscaling_config
    assert AutoscalingConfig.model_validate(read) == config_of(SCALED)


def test_the_example_for_config_files_can_be_built() -> None:
    [example] = [block for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if "max_replicas" in block]
    settings = Settings.model_validate(yaml.safe_load(example)["args"] | {"model": "embedserve/demo"})
    assert config_of(settings).max_replicas == 8
    commented = re.sub(r"^( +)# (.*:.*)$", r"\1\2", SERVE_YAML, flags=re.MULTILINE)
    arguments = yaml.safe_load(commented)["applications"][0]["args"]
    assert config_of(Settings.model_validate(arguments)).max_replicas == 8


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_policy_can_be_named_in_a_config_file() -> None:
    policy = config_of(SCALED).policy
    named = AutoscalingPolicy(policy_function=policy.policy_function, policy_kwargs=policy.policy_kwargs)
    assert named == policy
    assert _resolve_policy_callable(named)._parameters == _resolve_policy_callable(policy)._parameters
