"""What devices could compute at best, to hold against what they do (MFU)."""

from __future__ import annotations

# FLOP/s in bfloat16 without sparsity, from NVIDIA's data sheets. The first name that is part of the device's counts.
BFLOAT16 = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4 ": 121e12,
    "A10 ": 125e12,
}


def peak_flops(device: str, dtype: str) -> float | None:
    """FLOP/s of one device with this name (as `torch.cuda.get_device_name` gives it), None where it isn't known."""
    if dtype != "bfloat16":
        return None
    return next((peak for name, peak in BFLOAT16.items() if name in f"{device} "), None)
