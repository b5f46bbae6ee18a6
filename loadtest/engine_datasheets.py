"""What data sheets promise of GPUs, without sparsity: FLOP/s by dtype and bytes a second of memory.

Sources: NVIDIA's data sheets of H200 (SXM), H100 (SXM), A100 80GB (SXM), L40S and L4; for A10G, of which NVIDIA publishes none, AWS's
figures for g5. float32 is what the CUDA cores do: torch doesn't use TF32 unless told to.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSheet:
    """Peaks of one GPU; a dtype that isn't in `flops` isn't in its tensor cores."""

    flops: dict[str, float]
    bytes_per_second: float


# The first name that is part of the device's counts.
DATA_SHEETS = {
    "H200": DataSheet({"float32": 67e12, "bfloat16": 989e12, "int8": 1979e12, "fp8": 1979e12}, 4.8e12),
    "H100": DataSheet({"float32": 67e12, "bfloat16": 989e12, "int8": 1979e12, "fp8": 1979e12}, 3.35e12),
    "A100": DataSheet({"float32": 19.5e12, "bfloat16": 312e12, "int8": 624e12}, 2.039e12),
    "L40S": DataSheet({"float32": 91.6e12, "bfloat16": 362e12, "int8": 733e12, "fp8": 733e12}, 0.864e12),
    "L4 ": DataSheet({"float32": 30.3e12, "bfloat16": 121e12, "int8": 242e12, "fp8": 242e12}, 0.3e12),
    "A10G": DataSheet({"float32": 35e12, "bfloat16": 70e12, "int8": 140e12}, 0.6e12),
}


def data_sheet(device: str) -> DataSheet | None:
    """Of the device with this name, as `torch.cuda.get_device_name` gives it; None where it isn't known."""
    return next((sheet for name, sheet in DATA_SHEETS.items() if name in f"{device} "), None)
