"""One settings tree: every default is stated here, once.

`Settings` is the argument of `serve_app:build`, of the `args:` of a Serve config file, and of `embedserve up`. Nested fields can be
given with dots where only flat arguments exist: `serve run serve_app:build model=… limits.max_inputs=4096`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve_app.types import DEMO_MODEL_ID, Limits


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class LimitSettings(_Section):
    """What one request may ask for."""

    max_input_tokens: int = Field(
        8192, ge=2, description="longer inputs are refused; up to the model's own 32768 or 40960"
    )
    max_inputs: int = Field(2048, ge=1)
    max_request_tokens: int = Field(300_000, ge=2)
    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024)

    def as_limits(self) -> Limits:
        return Limits(**self.model_dump())


class BatchSettings(_Section):
    """How a replica forms batches. A batch starts whenever the engine is free; there is no wait to tune."""

    max_tokens: int | None = Field(
        None,
        ge=16,
        description="token budget of one forward pass; unset: 16384 on GPU, or less if its memory holds less, 2048 on CPU",
    )
    max_inputs: int = Field(512, ge=1)
    bulk_patience_seconds: float = Field(
        2.0, ge=0, description="bulk inputs overtake interactive ones after waiting so long"
    )
    prefix_cache_mb: int | None = Field(
        None,
        ge=0,
        description="memory for prefixes that inputs share; 0: none; unset: 128 on CPU, 256 on GPU if its kernel passes the check",
    )
    share_duplicates: bool = Field(
        True, description="compute inputs with the same tokens once where they wait or are computed at the same time"
    )


class DispatchSettings(_Section):
    """How a gateway cuts requests into chunks and sends them to replicas."""

    chunk_tokens: int | None = Field(
        None, ge=16, description="token budget of one RPC; unset: 16384 on GPU, 2048 on CPU"
    )
    chunk_inputs: int = Field(256, ge=1)
    slots_per_replica: int = Field(2, ge=1, description="RPCs in flight per replica, gateway and length class")
    max_deaths: int = Field(
        3, ge=3, description="replicas that may die with one input before the input is refused as the cause"
    )
    silence_seconds: float = Field(
        1.0, ge=0.1, description="a replica with work that neither replies nor answers a ping for so long is overtaken"
    )
    silence_multiple: float = Field(
        4.0, ge=1, description="and one that pings but takes so many times longer than its measured rate lets expect"
    )
    retry_budget: float = Field(
        0.1, ge=0, le=1, description="share of the traffic, in tokens, that may be sent a second time"
    )
    request_timeout_seconds: float = Field(
        300.0, gt=0, description="deadline of a request that names none in x-request-timeout-seconds"
    )
    min_request_timeout_seconds: float = Field(0.05, gt=0, description="shorter ones asked for become this")
    max_request_timeout_seconds: float = Field(3600.0, gt=0, description="longer ones asked for become this")


class AdmissionSettings(_Section):
    """When a request is answered 429 at once, instead of queued. Large requests are admitted whole or not at all."""

    max_wait_seconds: float = Field(
        10.0, gt=0, description="backlog of the cluster over its measured token rate, at most"
    )
    max_gateway_tokens: int = Field(4_000_000, ge=1, description="tokens that one gateway holds back, at most")
    max_cluster_tokens: int = Field(40_000_000, ge=1, description="tokens waiting or running in the cluster, at most")


class CacheSettings(_Section):
    """Vectors that are kept, to answer inputs that were answered before without computing them again."""

    max_mb: int = Field(
        0, ge=0, description="memory of each gateway for them, the least recently used going first; 0: none are kept"
    )


class AutoscalingSettings(_Section):
    """How the number of Embedder replicas follows the work. Off while `max_replicas` is unset."""

    min_replicas: int = Field(1, ge=0, description="0: the pool may go to sleep; the next request wakes it")
    max_replicas: int | None = Field(None, ge=1, description="unset: always as many as `replicas`")
    target_backlog_seconds: float = Field(
        1.0, gt=0, description="queued and running tokens over the measured rate, to stay below"
    )
    target_utilization: float = Field(0.8, gt=0, le=1, description="share of the measured rate to plan with")
    interval_seconds: float = Field(1.0, gt=0, description="how often replicas report")
    upscale_delay_seconds: float = Field(2.0, ge=0, description="how long more replicas must have been wanted")
    downscale_delay_seconds: float = Field(300.0, ge=0, description="how long fewer replicas must have been enough")
    downscale_to_zero_delay_seconds: float = Field(600.0, ge=0, description="how long none must have been needed")


class MetricsSettings(_Section):
    """Where metrics are kept and shown besides `GET /metrics`."""

    directory: str | None = Field(
        None, description="local folder of each node to count in; unset: in Ray's folder for the session"
    )
    node_port: int | None = Field(
        None, ge=1, le=65535, description="port on which each node shows its own part, for a PodMonitor; unset: none"
    )
    peak_flops: float | None = Field(
        None, gt=0, description="FLOP/s of one Embedder's device at its dtype; unset: known for common GPUs only"
    )


class CostSettings(_Section):
    """What a device and a token cost, for `/v1/usage` and the cost metrics."""

    price_book: str | None = Field(
        None,
        description="price book to use instead of the package's own, on every gateway's node; see deploy/prices.yaml",
    )
    gpu: str | None = Field(None, description="device of the price book that Embedders run on; unset: its default_gpu")
    gpu_usd_per_hour: float | None = Field(None, gt=0, allow_inf_nan=False, description="instead of the book's price")
    cpu_usd_per_hour: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="of one vCPU, where Embedders run without a GPU; unset: the book's"
    )
    token_factor: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="tokens that hosted APIs count for one token here, for all of them; unset: the book's factors",
    )


def _nest(data: Mapping[str, Any]) -> dict[str, Any]:
    """`{"limits.max_inputs": 1}` as `{"limits": {"max_inputs": 1}}`. Raises ValueError for a section given in both ways."""
    nested: dict[str, Any] = {}
    for key, value in data.items():
        section, dot, field = str(key).partition(".")
        if dot:
            inner = nested.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ValueError(f"{section!r} is given both whole and by {key!r}")
            inner[field] = value
        elif key in nested:
            raise ValueError(f"{key!r} is given both whole and by its fields")
        else:
            nested[key] = value
    return nested


def default_tokens(num_gpus: float) -> int:
    """The token budget of a batch, and of a chunk, where the settings leave it to us.

    About what one forward pass takes: long enough to fill the device, short enough that others needn't wait long behind it.
    """
    return 16_384 if num_gpus else 2_048


# The sections that running replicas of each deployment take over without a restart; Serve hands them on as `user_config`.
GATEWAY_LIVE = ("limits", "batch", "dispatch", "admission", "cache")
EMBEDDER_LIVE = ("batch",)


class Settings(_Section):
    """Everything that can be set about a deployment."""

    model: str = Field(DEMO_MODEL_ID, description="Hugging Face id or local folder of a Qwen3-Embedding checkpoint")
    revision: str | None = Field(None, description="branch, tag or commit of a Hugging Face id")
    served_model_name: str | None = Field(
        None, description="id that clients see; the model id, or the folder's name, if unset"
    )

    dtype: Literal["auto", "float32", "bfloat16", "int8", "fp8"] = Field(
        "auto", description="auto: bfloat16 on CUDA, float32 on CPU; int8: on CPU; fp8: on Ada, Hopper or newer GPUs"
    )
    replicas: int = Field(
        1, ge=1, description="Embedder replicas, one engine each; with autoscaling, how many it starts with"
    )
    gateways: int = Field(1, ge=1, description="Gateway replicas: HTTP, tokenizing, coalescing")
    num_gpus: float | None = Field(
        None,
        ge=0,
        description="GPUs per Embedder; unset: 1 where the cluster has GPUs, else 0 (CPU). Fractions share one GPU",
    )
    num_cpus: float = Field(1.0, ge=0, description="CPUs that Ray reserves per Embedder")
    gateway_num_cpus: float = Field(0.5, ge=0, description="CPUs that Ray reserves per Gateway")
    max_surge_percent: int | None = Field(
        None,
        ge=0,
        le=100,
        description="Embedders that a rolling update may start before it stops old ones; unset: 25 on CPU, 0 on GPU, since an update "
        "waits for ever for a GPU that nobody frees",
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="torch threads per Embedder on CPU; unset: num_cpus if above 1, else the cores it may use / most replicas",
    )
    pin_cores: bool = Field(
        False,
        description="keep each Embedder on CPU on as many cores of its own as it has threads, where some are free",
    )

    cuda_graphs: bool = Field(True, description="on GPU, launch small batches as CUDA graphs")
    batch_invariant: bool = Field(
        False,
        description="vectors don't depend, to the last bit, on what else is in a batch; slower, most so for short inputs",
    )

    token_ids: str = Field(
        "model",
        pattern=r"^(model|refuse|tiktoken:[\w.-]+)$",
        description="what token-id inputs mean: this model's ids, refuse them, or tiktoken:<encoding> to decode and tokenize again",
    )
    tiktoken_file: str | None = Field(
        None, description="local .tiktoken file of that encoding, for machines without internet"
    )

    limits: LimitSettings = LimitSettings()
    batch: BatchSettings = BatchSettings()
    dispatch: DispatchSettings = DispatchSettings()
    admission: AdmissionSettings = AdmissionSettings()
    cache: CacheSettings = CacheSettings()
    autoscaling: AutoscalingSettings = AutoscalingSettings()
    metrics: MetricsSettings = MetricsSettings()
    cost: CostSettings = CostSettings()

    access_log: bool = Field(False, description="Serve's own line per request; costs throughput")

    def live(self, sections: Sequence[str]) -> dict[str, Any]:
        """These sections as a `user_config`."""
        return self.model_dump(mode="json", include=set(sections))

    def with_live(self, user_config: Mapping[str, Any], sections: Sequence[str]) -> Self:
        """These settings with those of a `user_config`, nested or with dots, in their place; what it doesn't name stays.

        Raises ValueError, naming the field, for a section that isn't among `sections`, and for values that can't be set.
        """
        merged = self.model_dump()
        for section, fields in _nest(user_config).items():
            if section not in sections:
                raise ValueError(f"{section!r} isn't one of the sections that can change here: {', '.join(sections)}")
            if not isinstance(fields, Mapping):
                raise ValueError(f"{section!r} must be a mapping of its fields")
            merged[section] = merged[section] | dict(fields)
        return type(self).model_validate(merged)

    @property
    def most_replicas(self) -> int:
        """Embedders that there may be at once, but for updates."""
        return self.autoscaling.max_replicas or self.replicas

    @model_validator(mode="before")
    @classmethod
    def _nest_dotted_keys(cls, data: Any) -> Any:
        return _nest(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if self.limits.max_request_tokens < self.limits.max_input_tokens:
            raise ValueError("limits.max_request_tokens must be at least limits.max_input_tokens")
        dispatch, scaling = self.dispatch, self.autoscaling
        if not (
            dispatch.min_request_timeout_seconds
            <= dispatch.request_timeout_seconds
            <= dispatch.max_request_timeout_seconds
        ):
            raise ValueError("dispatch.request_timeout_seconds must lie between its min_ and its max_")
        if scaling.max_replicas is not None and not scaling.min_replicas <= self.replicas <= scaling.max_replicas:
            raise ValueError("replicas must lie between autoscaling.min_replicas and autoscaling.max_replicas")
        if self.num_gpus is not None and self.num_gpus > 1 and not math.isclose(self.num_gpus % 1, 0):
            raise ValueError("num_gpus above 1 must be a whole number (Ray's rule)")
        if self.batch_invariant and self.batch.prefix_cache_mb:
            raise ValueError("batch_invariant does without shared prefixes: unset batch.prefix_cache_mb")
        if self.revision is not None and self.model == DEMO_MODEL_ID:
            raise ValueError("the demo checkpoint has no revisions: unset revision or choose a model")
        if self.tiktoken_file is not None and not self.token_ids.startswith("tiktoken:"):
            raise ValueError("tiktoken_file needs token_ids=tiktoken:<encoding>")
        return self
