"""What loading takes: the weights in the dtype computed with, and little more. Measured by the kernel, in a process of its own."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.engine.int8_choice import kinds_here
from serve_app.engine.layout import tensor_shapes
from serve_app.engine.model_config import ModelConfig


def config(layers: int) -> ModelConfig:
    """The smallest published model with fewer layers and tokens."""
    return ModelConfig(30000, 1024, 3072, layers, 16, 8, 128, max_position_embeddings=512)


LOAD = """
import sys
from pathlib import Path
import torch
from serve_app.engine.model import Model
from serve_app.engine.precision import pick_precision
from serve_app.engine.stored import load_weights
from tests.test_load_memory import config

torch.set_num_threads(1)

def kilobytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])

here = torch.device("cpu")
precision = pick_precision(sys.argv[2], here)
if precision.quantised:
    precision.project(torch.ones(64, 64))  # the library's own code is no weight
before = kilobytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
shapes = config(int(sys.argv[3]))
model = Model(shapes, load_weights(Path(sys.argv[1]), shapes, here, precision.dtype), precision.project)
print(before, kilobytes("VmHWM"), kilobytes("VmRSS"))
"""


def write_zeros(folder: Path, shapes: ModelConfig, stored: str) -> None:
    """A checkpoint of zeros: a file with nothing in it but its header, as large as the real one."""
    itemsize = {"BF16": 2, "F32": 4}[stored]
    header, begin = {}, 0
    for name, shape in tensor_shapes(shapes).items():
        end = begin + itemsize * math.prod(shape)
        header[name] = {"dtype": stored, "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.truncate(8 + len(text) + begin)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("stored", "dtype", "layers"),
    [("BF16", "bfloat16", 8), ("BF16", "float32", 8), ("F32", "float32", 8), ("BF16", "int8", 28)],
)
def test_loading_takes_little_more_than_the_weights(tmp_path: Path, stored: str, dtype: str, layers: int) -> None:
    if dtype == "int8" and not kinds_here():
        pytest.skip("needs a CPU with AMX, AVX512-VNNI or AVX2")
    shapes = config(layers)
    write_zeros(tmp_path, shapes, stored)
    command = [sys.executable, "-c", LOAD, tmp_path, dtype, str(layers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, peak, after = (1024 * int(word) for word in done.stdout.split())
    embedding = shapes.vocab_size * shapes.hidden_size
    itemsize = {"bfloat16": 2, "float32": 4, "int8": 1}[dtype]
    weights = shapes.linear_parameters * itemsize + embedding * (4 if stored == "F32" else 2)
    assert 0.9 * weights < after - before
    assert peak - before < 1.2 * weights
