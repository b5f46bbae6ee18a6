"""What this machine's CPU multiplies quickly, by torch's own questions about it."""

from __future__ import annotations

import torch


def has_amx() -> bool:
    """Whether there is AMX, whose tiles multiply bfloat16 and int8 many times as fast as float32."""
    return _supports("_is_amx_tile_supported")


def multiplies_bfloat16() -> bool:
    """Whether there are instructions for products of bfloat16 (AVX512-BF16 or AMX)."""
    return _supports("_is_avx512_bf16_supported") or has_amx()


def has_avx2() -> bool:
    """Whether there is AVX2, which multiplies unsigned bytes by signed ones, and adds pairs of them in 16 bits that saturate."""
    return _supports("_is_avx2_supported")


def multiplies_int8() -> bool:
    """Whether there are instructions for products of int8 (AVX512-VNNI or AMX), and this torch has oneDNN's kernels for them.

    The kernels run without such instructions too, but by AVX2's, and with activations of all 8 bits sums come out wrong.
    """
    return has_onednn_int8() and (_supports("_is_vnni_supported") or has_amx())


def has_onednn_int8() -> bool:
    """Whether this torch has oneDNN's kernels for products of 8 bits."""
    operations = torch.ops.onednn
    known = hasattr(operations, "qlinear_prepack") and hasattr(operations, "qlinear_pointwise")
    return known and torch.backends.mkldnn.is_available()


def _supports(name: str) -> bool:
    """The answer to one of torch's questions, no where this torch doesn't know it."""
    ask = getattr(torch.cpu, name, None)
    return bool(ask and ask())
