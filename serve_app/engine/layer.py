"""The layers of a model as the forward pass uses them: norms, and projections made of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from serve_app.engine.model_config import ModelConfig
from serve_app.engine.projection import Projection
from serve_app.engine.weights import LayerWeights

Project = Callable[[Tensor], Projection]
"""Makes the projection of weights `[out, in]`, which it needn't keep."""


@dataclass(frozen=True, slots=True)
class FeedForward:
    """The gated feed-forward of a layer; `H` hidden, `I` intermediate."""

    norm: Tensor  # [H]
    gate_up: Projection  # H to 2I
    down: Projection  # I to H

    @classmethod
    def of(cls, weights: LayerWeights, project: Project) -> FeedForward:
        """That of a layer with these weights."""
        return cls(weights.mlp_norm, project(weights.gate_up), project(weights.down))


@dataclass(frozen=True, slots=True)
class Layer:
    """Any layer but the last; `H` hidden, `Q` all query heads, `K` all key heads, `D` head dimension."""

    input_norm: Tensor  # [H]
    qkv: Projection  # H to Q + 2K
    head_norm: Tensor  # [query heads + key heads, D]: they lie side by side, so that one call normalises both
    output: Projection  # Q to H
    feed_forward: FeedForward

    @classmethod
    def of(cls, weights: LayerWeights, config: ModelConfig, project: Project) -> Layer:
        """The layer with these weights."""
        query = weights.query_norm.expand(config.num_attention_heads, -1)
        key = weights.key_norm.expand(config.num_key_value_heads, -1)
        return cls(
            weights.input_norm,
            project(weights.qkv),
            torch.cat([query, key]),
            project(weights.output),
            FeedForward.of(weights, project),
        )


@dataclass(frozen=True, slots=True)
class LastLayer:
    """The last layer: it has keys and values of all tokens, and all the rest of the pooled ones only."""

    input_norm: Tensor  # [H]
    query: Projection  # H to Q
    key_value: Projection  # H to 2K
    query_norm: Tensor  # [D]
    key_norm: Tensor  # [D]
    output: Projection  # Q to H
    feed_forward: FeedForward

    @classmethod
    def of(cls, weights: LayerWeights, config: ModelConfig, project: Project) -> LastLayer:
        """The layer with these weights."""
        query, key_value = weights.qkv.split([config.query_size, 2 * config.key_value_size])
        return cls(
            weights.input_norm,
            project(query),
            project(key_value),
            weights.query_norm,
            weights.key_norm,
            project(weights.output),
            FeedForward.of(weights, project),
        )


class Layers:
    """All layers of a model, made of their weights: at once and kept, or, without `keep`, one after another in each pass.

    `first` are all but the last; `last` is made when it's first asked for, if not before.
    """

    def __init__(self, weights: Sequence[LayerWeights], config: ModelConfig, project: Project, *, keep: bool) -> None:
        self._weights = weights
        self._config = config
        self._project = project
        self._kept = list(self._made()) if keep else None
        if keep:
            self.last  # noqa: B018 - makes it
            self._weights = ()  # quantised projections don't keep them either

    @property
    def first(self) -> Iterable[Layer]:
        """To be gone through once a pass."""
        return self._made() if self._kept is None else self._kept

    @cached_property
    def last(self) -> LastLayer:
        """To be asked for after the first ones."""
        return LastLayer.of(self._weights[-1], self._config, self._project)

    def change(self, change: Callable[[Any], Any]) -> None:
        """Put what `change` makes of each layer in its place, for measuring."""
        self._kept = [change(layer) for layer in self.first]
        self.last = change(self.last)

    def _made(self) -> Iterator[Layer]:
        for index in range(len(self._weights) - 1):
            yield Layer.of(self._weights[index], self._config, self._project)
