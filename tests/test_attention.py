"""The variable-length path with the kernel replaced: what it is called with, in each torch release's
words."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.attention.varlen
import torch.nn.functional as F
from torch import Tensor

from serve_app.engine import attention, attention_check
from serve_app.engine.attention import heads_can_share
from serve_app.engine.engine import Engine
from serve_app.engine.packing import pack
from serve_app.engine.varlen_attention import VarlenAttention, varlen_runs_on
from tests.checkpoints import SHAPES, checkpoint, random_ids


def attend(q: Tensor, k: Tensor, v: Tensor, bounds_q: Tensor, bounds_k: Tensor, causal: bool) -> Tensor:
    """What the kernel computes, one sequence after another; where it is causal the last query sees all keys."""
    out = torch.empty_like(q)
    for i in range(len(bounds_q) - 1):
        rows, seen = slice(*bounds_q[i : i + 2].tolist()), slice(*bounds_k[i : i + 2].tolist())
        one = [x.transpose(0, 1)[None] for x in (q[rows], k[seen], v[seen])]
        mask = torch.ones(one[0].shape[2], one[1].shape[2], dtype=torch.bool)
        mask = mask.tril(mask.shape[1] - mask.shape[0]) if causal else mask
        out[rows] = F.scaled_dot_product_attention(*one, attn_mask=mask, enable_gqa=True)[0].transpose(0, 1)
    return out


def newer(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int,
    *, window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False, num_splits: int | None = None,
) -> Tensor:  # fmt: skip
    assert enable_gqa
    assert num_splits == 1
    check(cu_seq_q, cu_seq_k, max_q, max_k)
    return attend(query, key, value, cu_seq_q, cu_seq_k, window_size == (-1, 0))


def middle(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int,
    *, window_size: tuple[int, int] = (-1, -1),
) -> Tensor:  # fmt: skip
    return older(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, window_size == (-1, 0))


def older(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int,
    is_causal: bool = False,
) -> Tensor:  # fmt: skip
    assert query.shape[1] == key.shape[1] == value.shape[1]
    check(cu_seq_q, cu_seq_k, max_q, max_k)
    return attend(query, key, value, cu_seq_q, cu_seq_k, is_causal)


def check(bounds_q: Tensor, bounds_k: Tensor, max_q: int, max_k: int) -> None:
    assert bounds_q.dtype == bounds_k.dtype == torch.int32
    assert max_q == int(bounds_q.diff().max())
    assert max_k == int(bounds_k.diff().max())


@pytest.mark.parametrize("kernel", [newer, middle, older])
@pytest.mark.parametrize("shape", SHAPES)
def test_varlen_path_gives_the_same(monkeypatch: pytest.MonkeyPatch, shape: str, kernel: Any) -> None:
    ids = random_ids([1, 5, 5, 40, 130], SHAPES[shape].vocab_size)
    expected = Engine.load(str(checkpoint(shape)), device="cpu").encode(ids)
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", kernel)
    monkeypatch.setattr(attention_check, "varlen_runs_on", lambda *_: True)
    varlen = Engine.load(str(checkpoint(shape)), device="cpu")
    assert np.abs(varlen.encode(ids) - expected).max() <= 1e-6

    one, other = random_ids([20, 33], SHAPES[shape].vocab_size, seed=1)
    sharing = [np.append(prefix, own) for prefix, own in zip([one, other] * 5, ids * 2, strict=True)] + ids
    expected = Engine.load(str(checkpoint(shape)), device="cpu", prefix_cache_mb=0).encode(sharing)
    varlen.encode(sharing)
    found, _, reused = varlen.encode_checked(sharing)
    assert reused == [20, 33] * 5 + [0] * 5
    assert np.abs(found - expected).max() <= 1e-5


def aligned_at_the_top(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int,
    *, window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """As kernels that let the first query see the first key only, however many keys there are."""
    out = torch.empty_like(query)
    for i in range(len(cu_seq_q) - 1):
        rows, seen = slice(*cu_seq_q[i : i + 2].tolist()), slice(*cu_seq_k[i : i + 2].tolist())
        one = [x.transpose(0, 1)[None] for x in (query[rows], key[seen], value[seen])]
        out[rows] = F.scaled_dot_product_attention(*one, is_causal=window_size == (-1, 0), enable_gqa=True)[
            0
        ].transpose(0, 1)
    return out


def sees_all(query: Tensor, key: Tensor, value: Tensor, cu_q: Tensor, cu_k: Tensor, *_: int, **__: object) -> Tensor:
    return attend(
        query, *(x.repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (key, value)), cu_q, cu_k, False
    )


def gives_nan(query: Tensor, *_: object, **__: object) -> Tensor:
    return torch.full_like(query, torch.nan)


def is_missing(*_: object, **__: object) -> Tensor:
    raise RuntimeError("no kernel image is available for execution on the device")


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (aligned_at_the_top, "behind prefixes: its results are off by"),
        (sees_all, "not used on cpu: its results are off by"),
        (gives_nan, "off by nan"),
        (is_missing, "no kernel image"),
    ],
)
def test_a_kernel_that_fails_its_check_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kernel: Any, said: str
) -> None:
    ids = random_ids([1, 5, 40, 130], SHAPES["demo"].vocab_size)
    ids += [np.append(ids[2][:30], one) for one in ids]
    expected = Engine.load(str(checkpoint()), device="cpu", prefix_cache_mb=0).encode(ids)
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", kernel)
    monkeypatch.setattr(attention_check, "varlen_runs_on", lambda *_: True)
    engine = Engine.load(str(checkpoint()), device="cpu")
    assert said in caplog.text
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    assert not engine.model.goes_on
    for _ in range(2):
        assert engine.encode_checked(ids).reused == [0] * len(ids)
    engine.keep_prefixes(1)  # who asks for it gets it, by the slower way
    engine.encode(ids)
    assert np.abs(engine.encode(ids) - expected).max() <= 1e-5
    assert len(engine.prefixes) == 1


def test_what_the_kernel_writes_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    done = torch.ones(3, 4, 32)
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", lambda *_, **__: done)
    packing = pack([np.zeros(3, np.int64)], torch.device("cpu")).whole
    query, key = torch.zeros(3, 4, 32), torch.zeros(3, 2, 32)
    assert VarlenAttention().causal(query, key, key, packing, 0, torch.empty_like(query)) is done


def test_heads_are_repeated_where_torch_would_write_out_all_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert heads_can_share(cpu, torch.float32, masked=True)
    assert heads_can_share(cuda, torch.bfloat16, masked=False)
    assert not heads_can_share(cuda, torch.bfloat16, masked=True)
    assert not heads_can_share(cuda, torch.float32, masked=False)
    attend = F.scaled_dot_product_attention

    def without_sharing(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        assert q.shape[1] == k.shape[1] == v.shape[1]
        return attend(q, k, v, **options)

    monkeypatch.setattr(attention, "heads_can_share", lambda *_, masked: False)
    monkeypatch.setattr(F, "scaled_dot_product_attention", without_sharing)
    for goes_on in (False, True):
        safe = attention_check.GroupedAttention()
        assert attention_check.disagreement(safe, SHAPES["demo"], cpu, torch.float32, goes_on=goes_on) is None


@pytest.mark.parametrize("goes_on", [True, False])
@pytest.mark.parametrize("shape", ["demo", "one-key-head"])
def test_torchs_own_call_passes_the_check(shape: str, goes_on: bool) -> None:
    cpu = torch.device("cpu")
    for dtype in (torch.float32, torch.bfloat16):
        safe = attention_check.GroupedAttention()
        assert attention_check.disagreement(safe, SHAPES[shape], cpu, dtype, goes_on=goes_on) is None


def test_varlen_is_for_bfloat16_on_newer_cuda_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, cpu = torch.device("cuda", 0), torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert varlen_runs_on(cuda, torch.bfloat16, 128)
    assert not varlen_runs_on(cpu, torch.bfloat16, 128)
    assert not varlen_runs_on(cuda, torch.float32, 128)
    assert not varlen_runs_on(cuda, torch.bfloat16, 100)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert not varlen_runs_on(cuda, torch.bfloat16, 128)
