"""How requests are bounded, batched and sent."""

from __future__ import annotations

from pydantic import Field

from serve_app.config.section import Section
from serve_app.types import Limits


class LimitSettings(Section):
    """What one request may ask for."""

    max_input_tokens: int = Field(
        8192, ge=2, description="longer inputs are refused; up to the model's own 32768 or 40960"
    )
    max_inputs: int = Field(2048, ge=1)
    max_request_tokens: int = Field(300_000, ge=2)
    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024)
    max_cohere_texts: int = Field(96, ge=1, description="inputs of one request to Cohere's routes, as Cohere has it")
    max_token_vectors: int | None = Field(
        None,
        ge=2,
        description="tokens of one request to /embed_all; unset: about 100 MB of JSON, which is 8192 with vectors of 1024 numbers",
    )

    def as_limits(self) -> Limits:
        return Limits(**self.model_dump())


class BatchSettings(Section):
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


class DispatchSettings(Section):
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


class AdmissionSettings(Section):
    """When a request is answered 429 at once, instead of queued. Large requests are admitted whole or not at all."""

    max_wait_seconds: float = Field(
        10.0, gt=0, description="backlog of the cluster over its measured token rate, at most"
    )
    max_gateway_tokens: int = Field(4_000_000, ge=1, description="tokens that one gateway holds back, at most")
    max_cluster_tokens: int = Field(40_000_000, ge=1, description="tokens waiting or running in the cluster, at most")


class CacheSettings(Section):
    """Vectors that are kept, to answer inputs that were answered before without computing them again; and for whom."""

    max_mb: int = Field(
        0, ge=0, description="memory of each gateway for them, the least recently used going first; 0: none are kept"
    )
    share_between_keys: bool = Field(
        False,
        description="kept vectors, equal inputs and prefixes of one API key also serve the others, which can then tell from the time "
        "that an answer takes whether somebody else has sent the same",
    )
