"""The choice of `dtype` on CPUs of several kinds, and what the log says about it."""

from __future__ import annotations

import logging
import re

import pytest
import torch

from serve_app.engine import cpu
from serve_app.engine.engine import Engine
from serve_app.engine.int8_choice import KINDS
from serve_app.engine.precision import cpu_advice, pick_precision
from serve_app.errors import EngineError
from tests.checkpoints import checkpoint

CPU = torch.device("cpu")
QUESTIONS = ("_is_amx_tile_supported", "_is_avx512_bf16_supported", "_is_vnni_supported", "_is_avx2_supported")


def machine(
    monkeypatch: pytest.MonkeyPatch, *, amx: bool = False, bf16: bool = False, vnni: bool = False, avx2: bool = False
) -> None:
    """Torch says that this CPU has these."""
    for question, answer in zip(QUESTIONS, (amx, bf16, vnni, avx2), strict=True):
        monkeypatch.setattr(torch.cpu, question, lambda answer=answer: answer, raising=False)


def test_int8_between_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.engine.int8_choice._is_exact_here", lambda kind: True)
    machine(monkeypatch, vnni=True)
    assert pick_precision("int8", CPU).dtype == torch.float32
    machine(monkeypatch, amx=True)
    assert pick_precision("int8", CPU).dtype == torch.bfloat16
    machine(monkeypatch, avx2=True)
    assert pick_precision("int8", CPU).dtype == torch.float32
    machine(monkeypatch)
    with pytest.raises(EngineError, match=r"dtype int8 needs a CPU with AMX, AVX512-VNNI or AVX2.* Use float32"):
        pick_precision("int8", CPU)


@pytest.mark.parametrize(
    ("has", "kind"),
    [
        ({"amx": True, "vnni": True, "avx2": True}, "oneDNN's kernels, activations of 8 bits"),
        ({"vnni": True, "avx2": True}, "oneDNN's kernels, activations of 8 bits"),
        ({"avx2": True}, "own kernels, activations of 7 bits"),
    ],
)
def test_int8_products_go_by_the_cpu(monkeypatch: pytest.MonkeyPatch, has: dict[str, bool], kind: str) -> None:
    monkeypatch.setattr("serve_app.engine.int8_choice._is_exact_here", lambda kind: True)
    machine(monkeypatch, **has)
    assert pick_precision("int8", CPU).project is KINDS[kind]


def test_int8_is_refused_on_gpus_and_by_a_torch_without_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, amx=True, vnni=True)
    with pytest.raises(EngineError, match="int8 is for CPUs, not for cuda: use bfloat16 or fp8"):
        pick_precision("int8", torch.device("cuda"))
    monkeypatch.setattr(torch.ops, "onednn", object())
    machine(monkeypatch, amx=True, vnni=True)
    with pytest.raises(EngineError, match=rf"torch {re.escape(torch.__version__)} doesn't find them"):
        pick_precision("int8", CPU)


def test_a_torch_that_does_not_know_the_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    for question in QUESTIONS:
        monkeypatch.delattr(torch.cpu, question, raising=False)
    assert not cpu.has_amx()
    assert not cpu.multiplies_bfloat16()
    assert not cpu.multiplies_int8()
    assert not cpu.has_avx2()


@pytest.mark.parametrize(
    ("dtype", "has", "level", "said"),
    [
        ("float32", {"amx": True, "bf16": True, "vnni": True}, logging.INFO, "has AMX: dtype=bfloat16 or int8"),
        ("float32", {"vnni": True, "avx2": True}, logging.INFO, "has AVX512-VNNI: dtype=int8"),
        ("float32", {"avx2": True}, logging.INFO, "has AVX2: dtype=int8"),
        ("bfloat16", {"vnni": True}, logging.WARNING, "no instructions for bfloat16"),
    ],
)
def test_what_the_log_says(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    dtype: str,
    has: dict[str, bool],
    level: int,
    said: str,
) -> None:
    machine(monkeypatch, **has)
    with caplog.at_level(logging.INFO):
        Engine.load(str(checkpoint()), device="cpu", dtype=dtype)
    assert [record.levelno for record in caplog.records if said in record.getMessage()] == [level]


def test_nothing_is_said_where_the_dtype_suits(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, amx=True, bf16=True, vnni=True)
    monkeypatch.setattr("serve_app.engine.int8_choice._is_exact_here", lambda kind: True)
    assert cpu_advice(pick_precision("bfloat16", CPU)) is None
    assert cpu_advice(pick_precision("int8", CPU)) is None
    machine(monkeypatch)
    assert cpu_advice(pick_precision("float32", CPU)) is None
