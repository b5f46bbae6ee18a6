"""Batch-invariant products: the same bits for an input alone and in any batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from serve_app.engine.attention import GroupedAttention
from serve_app.engine.attention_check import invariant_attention
from serve_app.engine.elementwise import TorchElementwise
from serve_app.engine.fixed_rows import FixedRows, FixedRowsElementwise, fixed_rows, normalised
from serve_app.engine.model import Model
from serve_app.engine.projection import Dense
from serve_app.engine.random_weights import random_weights
from serve_app.engine.varlen_attention import VarlenAttention
from serve_app.errors import EngineError
from tests.checkpoints import SHAPES, random_ids

CPU = torch.device("cpu")


class Recorded(Dense):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__(weight)
        self.rows: set[int] = set()

    def __call__(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        self.rows.add(len(x))
        return super().__call__(x, out)


def test_every_product_has_the_same_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(24, 40, generator=generator), torch.randn(70, 40, generator=generator)
    fixed = FixedRows(recorded := Recorded(weight), rows=32)
    for rows in (1, 31, 32, 33, 70):
        out, sums = torch.empty(rows, 24), torch.ones(rows, 24)
        found = fixed(x[:rows])
        assert torch.allclose(found, x[:rows] @ weight.t(), atol=1e-5)
        assert torch.equal(fixed(x[:rows], out=out), found)
        fixed.add_to(sums, x[:rows])
        assert torch.equal(sums, found + 1)
    assert recorded.rows == {32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", ["demo", "one-key-head", "deep-wide-heads"])
def test_an_input_has_the_same_bits_in_every_batch(shape: str, dtype: torch.dtype) -> None:
    config = SHAPES[shape]
    weights = random_weights(config, CPU, dtype)
    plain = Model(config, weights)
    model = Model(config, weights, invariant=True)
    ids = random_ids([1, 2, 3, 17, 17, 31, 64, 100, 255, 300], config.vocab_size)
    alone = torch.cat([model.forward(model.pack([one])) for one in ids])
    expected = torch.cat([plain.forward(plain.pack([one])) for one in ids])
    assert (alone * expected).sum(dim=1).min() > (0.99999 if dtype == torch.float32 else 0.999)
    order = np.random.default_rng(1).permutation(len(ids))
    for arrangement in (np.arange(len(ids)), order, order[:4], order[3:]):
        together = model.forward(model.pack([ids[i] for i in arrangement]))
        assert torch.equal(together, alone[arrangement])
    repeated = model.forward(model.pack([ids[3]] * 40))
    assert torch.equal(repeated, alone[3].expand(40, -1))


def test_what_lies_between_products_has_the_same_rows_too() -> None:
    seen: list[int] = []

    class Counted(TorchElementwise):
        def norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> torch.Tensor:
            seen.append(len(x))
            return super().norm(x, weight, eps, out)

        def turn_(self, heads: torch.Tensor, *rest: Any) -> None:
            seen.append(len(heads))
            super().turn_(heads, *rest)

        def gate(self, gate_up: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
            seen.append(len(gate_up))
            return super().gate(gate_up, out)

    generator = torch.Generator().manual_seed(0)
    fixed, plain = FixedRowsElementwise(Counted(), rows=32), TorchElementwise()
    for tokens in (1, 32, 70):
        x, weight = torch.randn(tokens, 24, generator=generator), torch.randn(24, generator=generator)
        heads, cos, sin = (torch.randn(tokens, n, 4, generator=generator) for n in (5, 1, 1))
        wide = heads.repeat(1, 1, 2)
        turned, expected = wide.clone(), wide.clone()
        fixed.turn_(turned[:, :3], weight[:8], 1e-6, cos, sin)
        plain.turn_(expected[:, :3], weight[:8], 1e-6, cos, sin)
        assert torch.allclose(turned, expected, atol=1e-6)
        out = plain.norm(x, weight, 1e-6, torch.empty_like(x))
        assert torch.allclose(fixed.norm(x, weight, 1e-6, torch.empty_like(x)), out, atol=1e-6)
        assert torch.allclose(fixed.norm(x.clone(), weight, 1e-6, y := x.clone()), out, atol=1e-6)
        assert torch.allclose(y, out, atol=1e-6)
        gated = plain.gate(x.clone(), torch.empty(tokens, 12))
        assert torch.allclose(fixed.gate(x.clone(), torch.empty(tokens, 12)), gated, atol=1e-6)
        assert torch.allclose(normalised(x, 32), torch.nn.functional.normalize(x, dim=-1), atol=1e-6)
    assert set(seen) == {32}


def test_on_a_gpu_only_the_kernel_that_promises_it_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA T4")
    with pytest.raises(EngineError, match=r"batch_invariant on a GPU needs dtype bfloat16.*NVIDIA T4"):
        invariant_attention(GroupedAttention(), cuda)
    varlen = VarlenAttention()
    varlen.invariant = True
    assert invariant_attention(varlen, cuda) is varlen
    varlen.invariant = False
    with pytest.raises(EngineError, match="num_splits"):
        invariant_attention(varlen, cuda)


def test_fixed_rows_go_by_the_device() -> None:
    assert isinstance(fixed_rows(Dense)(torch.ones(2, 2)), FixedRows)
