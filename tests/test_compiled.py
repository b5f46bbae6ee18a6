"""Compiled norms, rotation and gate: their maths without a compiler, traced by torch's, and what happens where they fail."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from serve_app.engine import elementwise
from serve_app.engine.compiled import CompiledElementwise, compiled_elementwise
from serve_app.engine.elementwise import TorchElementwise, pick_elementwise

CPU = torch.device("cpu")


def as_it_is(function: Callable[..., None]) -> Callable[..., None]:
    return function


def test_they_compute_what_torchs_own_calls_do() -> None:
    assert isinstance(compiled_elementwise(CPU, as_it_is), CompiledElementwise)


def test_torch_can_trace_them_for_any_number_of_tokens() -> None:
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=False, recompile_limit=8, fail_on_recompile_limit_hit=True):
        traced = partial(torch.compile, dynamic=True, fullgraph=True, backend="aot_eager")
        compiled = compiled_elementwise(CPU, traced)
        assert isinstance(compiled, CompiledElementwise)
        for tokens in (2, 5, 9, 17, 33, 100, 1000, 1001, 1002, 1003):
            x = torch.randn(tokens, 64)
            expected = TorchElementwise().norm(x, torch.ones(64), 1e-6, torch.empty_like(x))
            assert torch.allclose(compiled.norm(x, torch.ones(64), 1e-6, torch.empty_like(x)), expected, atol=1e-5)


def wrong(function: Callable[..., None]) -> Callable[..., None]:
    def doubled(*arguments: Any) -> None:
        function(*arguments)
        (arguments[-1] if len(arguments) < 5 else arguments[0]).mul_(2)

    return doubled


def missing(function: Callable[..., None]) -> Callable[..., None]:
    def fails(*arguments: Any) -> None:
        raise ImportError("no triton\nhere")

    return fails


@pytest.mark.parametrize(("compiler", "said"), [(wrong, "off by"), (missing, "ImportError: no triton")])
def test_where_they_fail_torchs_own_calls_are_used(caplog: pytest.LogCaptureFixture, compiler: Any, said: str) -> None:
    assert isinstance(compiled_elementwise(CPU, compiler), TorchElementwise)
    assert [said in record.message and "\n" not in record.message for record in caplog.records] == [True]


def test_cuda_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.engine.compiled.compiled_elementwise", lambda device: (device.type, "compiled"))
    assert pick_elementwise(torch.device("cuda")) == ("cuda", "compiled")
    assert elementwise.pick_elementwise(CPU) != ("cpu", "compiled")
