"""What the operator may set about dispatching, in one piece, so that it can be changed while a gateway serves."""

from __future__ import annotations

from dataclasses import dataclass, field

from serve_app.cluster.silence import SilencePolicy


@dataclass(frozen=True, slots=True)
class DispatchRules:
    """Chunks hold at most `chunk_tokens` tokens and `chunk_inputs` inputs. For `max_deaths` see `Resender`; `retry_budget` is
    the share of `RetryBudget`."""

    chunk_tokens: int = 16_384
    chunk_inputs: int = 256
    max_deaths: int = 3
    retry_budget: float = 0.1
    silence: SilencePolicy = field(default_factory=SilencePolicy)
