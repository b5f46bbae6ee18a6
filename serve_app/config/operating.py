"""How many replicas there are, what is measured, and what it costs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from serve_app.config.section import Section


class AutoscalingSettings(Section):
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


class LogSettings(Section):
    """What the processes say on standard output."""

    format: Literal["text", "json"] = Field("text", description="json: one object a line")
    requests: Literal["none", "failed", "all"] = Field(
        "none",
        description="a line for each request with id, name of the key, sizes and times, never a text: for none, for all, or for those "
        "answered with 400 or more",
    )


class MetricsSettings(Section):
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


class CostSettings(Section):
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
