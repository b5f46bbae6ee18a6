"""Compiled norms, rotation and gate: their maths without a compiler, traced by torch's, and what happens where they fail."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from serve_app.engine.compiled import CompiledElementwise, compiled_elementwise, torch_compiler
from serve_app.engine.elementwise import TorchElementwise, pick_elementwise
from serve_app.engine.model import CPU_MLP_TOKENS, Model
from serve_app.engine.random_weights import random_weights
from tests.checkpoints import SHAPES, random_ids

CPU = torch.device("cpu")


def as_it_is(function: Callable[..., None]) -> Callable[..., None]:
    return function


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_compute_what_torchs_own_calls_do(dtype: torch.dtype) -> None:
    assert isinstance(compiled_elementwise(CPU, dtype, as_it_is), CompiledElementwise)


@torch.inference_mode()
def test_new_numbers_of_tokens_compile_nothing_new() -> None:
    graphs = []

    def backend(graph: Any, examples: list[Any]) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = compiled_elementwise(CPU, torch.float32, torch_compiler(backend=backend))
    assert isinstance(compiled, CompiledElementwise)

    def run(tokens: int) -> None:
        x, heads = torch.randn(tokens, 128), torch.randn(tokens, 12, 32)
        expected = TorchElementwise().norm(x, torch.ones(128), 1e-6, torch.empty_like(x))
        assert torch.allclose(compiled.norm(x, torch.ones(128), 1e-6, torch.empty_like(x)), expected, atol=1e-5)
        compiled.turn_(heads[:, :8], torch.ones(8, 32), 1e-6, *torch.randn(2, tokens, 1, 16))
        compiled.gate(torch.randn(tokens, 256), torch.empty(tokens, 128))

    for tokens in (1, 169):  # as warming up does
        run(tokens)
    kinds = len(graphs)
    assert kinds >= 3
    for tokens in (1, 2, 5, 17, 70, 1001):
        run(tokens)
    assert len(graphs) == kinds


def test_a_request_never_waits_for_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = torch.bfloat16
    graphs: list[Any] = []

    def backend(graph: Any, examples: list[Any]) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = compiled_elementwise(CPU, dtype, torch_compiler(backend=backend))
    assert isinstance(compiled, CompiledElementwise)
    monkeypatch.setattr("serve_app.engine.model.pick_elementwise", lambda *_: compiled)
    config = SHAPES["demo"]
    weights = random_weights(config, CPU, dtype)
    whole, parted = Model(config, weights), Model(config, weights, part_tokens=64)
    kinds = len(graphs)
    batches = [[1], [2], [5, 1, 9], [CPU_MLP_TOKENS + 1], [65], [30, 64, 35]]

    def serve() -> None:  # as the engine's own thread, which has no settings but torch's defaults
        for model in (whole, parted):
            prefix = model.prefix(random_ids([9], 100)[0])
            for lengths in batches:
                ids = random_ids(lengths, 100)
                model.forward(model.pack(ids))
                model.forward(model.pack(ids, [prefix] + [None] * (len(ids) - 1)))
                model.every_token(model.pack(ids))

    with ThreadPoolExecutor(1) as thread:
        thread.submit(serve).result()
    assert len(graphs) == kinds


def test_more_kinds_are_compiled_than_torch_does_as_a_rule_on_any_thread() -> None:
    graphs: list[Any] = []

    def backend(graph: Any, examples: list[Any]) -> Any:
        graphs.append(graph)
        return graph.forward

    def doubled(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    compiled = torch_compiler(backend=backend)(doubled)
    with ThreadPoolExecutor(1) as thread:
        for dimensions in range(1, 13):
            thread.submit(compiled, torch.ones([2] * dimensions)).result()
    assert len(graphs) == 12


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
    assert isinstance(compiled_elementwise(CPU, torch.float32, compiler), TorchElementwise)
    assert [said in record.message and "\n" not in record.message for record in caplog.records] == [True]


def test_cuda_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.engine.compiled.compiled_elementwise", lambda device, dtype: (device.type, dtype))
    assert pick_elementwise(torch.device("cuda"), torch.bfloat16) == ("cuda", torch.bfloat16)
    assert not isinstance(pick_elementwise(CPU), tuple)
