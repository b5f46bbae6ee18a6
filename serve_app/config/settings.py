"""The settings tree: its sections, what stands beside them, and what must fit together.

`Settings` is the argument of `serve_app:build`, of the `args:` of a Serve config file, and of `embedserve up`. Nested fields can be
given with dots where only flat arguments exist: `serve run serve_app:build model=… limits.max_inputs=4096`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from serve_app.config.access import AuthSettings, LedgerSettings
from serve_app.config.operating import AutoscalingSettings, CostSettings, LogSettings, MetricsSettings
from serve_app.config.section import Section
from serve_app.config.serving import AdmissionSettings, BatchSettings, CacheSettings, DispatchSettings, LimitSettings
from serve_app.types import DEMO_MODEL_ID


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


class Settings(Section):
    """Everything that can be set about a deployment."""

    model: str = Field(DEMO_MODEL_ID, description="Hugging Face id or local folder of a Qwen3-Embedding checkpoint")
    revision: str | None = Field(
        None, description="branch, tag or commit of a Hugging Face id; looked up once for a deployment"
    )
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

    model_aliases: list[str] = Field(
        default_factory=list,
        description="other names that the model answers to, for clients that ask for, say, embed-multilingual-v3.0; "
        "separated by commas where they are given as text",
    )
    prompts: dict[str, str] = Field(
        default_factory=dict,
        description="texts that precede an input when a request names them, beside the model's own query and document; "
        "classification and clustering have defaults",
    )

    limits: LimitSettings = LimitSettings()
    batch: BatchSettings = BatchSettings()
    dispatch: DispatchSettings = DispatchSettings()
    admission: AdmissionSettings = AdmissionSettings()
    cache: CacheSettings = CacheSettings()
    autoscaling: AutoscalingSettings = AutoscalingSettings()
    metrics: MetricsSettings = MetricsSettings()
    cost: CostSettings = CostSettings()
    auth: AuthSettings = AuthSettings()
    ledger: LedgerSettings = LedgerSettings()
    log: LogSettings = LogSettings()

    access_log: bool = Field(False, description="Serve's own line per request; costs throughput")

    @field_validator("model_aliases", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """`a,b`, as flat arguments have to say it, is `[a, b]`."""
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

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
        if self.ledger.path is not None and self.ledger.redis_url is not None:
            raise ValueError("ledger.path and ledger.redis_url are two places for one ledger: set one of them")
        return self
