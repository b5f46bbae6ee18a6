"""The engine benchmark: its cases, its floors, and a whole run on a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from loadtest import bench_engine, engine_roofline, profile_engine
from loadtest.engine_cases import Cases
from loadtest.engine_ceilings import copy_rate, layer_shapes, product_rates
from loadtest.engine_contestants import in_dtype, ours, qwen3
from loadtest.engine_datasheets import data_sheet
from loadtest.engine_dtypes import chosen_dtypes, native_dtypes
from loadtest.engine_floor import floor_of, forward_flops, needed_flops
from loadtest.engine_products import PRODUCTS
from serve_app.engine.model_config import QWEN3_EMBEDDING, ModelConfig
from serve_app.engine.random_weights import random_weights
from tests.reference import VOCABULARY, tokenizer

TINY = ModelConfig(VOCABULARY, 64, 96, 2, 4, 2, 32, max_position_embeddings=4096)
SHORT = [
    "--dtypes",
    "float32",
    "bfloat16",
    "--lengths",
    "16",
    "--batch-sizes",
    "4",
    "--seconds",
    "0.01",
    "--rounds",
    "2",
]
RATES = {"best": 5e9, "squares": {"64": 5e9}, "model": {"32": 4e9}}


def test_texts_have_the_lengths_that_the_case_says() -> None:
    cases = Cases(tokenizer(), seed=3)
    for case in (cases.uniform(16, 100), cases.mix(800), cases.queries(500)):
        first, second = case.draw(), case.draw()
        assert [len(ids) for ids in tokenizer().encode_batch(first)] == case.lengths
        assert not set(first) & set(second)
    assert len(cases.uniform(16, 100).lengths) == 6
    assert len(cases.uniform(512, 100).lengths) == 1


def test_inputs_that_take_too_long_are_left_out_with_the_reason() -> None:
    cases, left_out = Cases(tokenizer(), 0).choose([16, 512, 2048, 8192], lambda length: 100.0, 2.0, longest=4096)
    assert [case.name for case in cases] == ["16", "512", "mix", "queries"]
    assert "20 s" in left_out["2048"]
    assert "4096" in left_out["8192"]


@pytest.mark.parametrize(("size", "gigaflops"), [("0.6B", 0.940), ("4B", 7.42), ("8B", 14.04)])
def test_flops_are_those_worked_out_by_hand(size: str, gigaflops: float) -> None:
    config = QWEN3_EMBEDDING[size]
    assert forward_flops(config, [512] * 3) / (3 * 512) == pytest.approx(gigaflops * 1e9, rel=2e-3)
    assert needed_flops(config, [512]) < forward_flops(config, [512])
    parameters = sum(width * outputs for width, outputs in layer_shapes(config).values())
    assert parameters * config.num_hidden_layers == config.linear_parameters


def test_few_tokens_wait_for_the_weights_and_many_for_the_products() -> None:
    config = QWEN3_EMBEDDING["8B"]
    sheet = data_sheet("NVIDIA H200")
    assert sheet is not None
    rates = sheet.flops["bfloat16"], sheet.bytes_per_second
    few, many = floor_of(config, [16], "bfloat16", *rates), floor_of(config, [512] * 32, "bfloat16", *rates)
    assert few.seconds == few.memory == pytest.approx(2 * 6.946e9 / 4.8e12, rel=1e-3)
    assert many.seconds == many.compute
    assert data_sheet("NVIDIA L4") is not data_sheet("NVIDIA L40S")
    assert data_sheet("cpu") is None


def test_weights_are_shared_and_those_of_others_rounded() -> None:
    weights = random_weights(TINY, torch.device("cpu"), torch.float32)
    model = qwen3(TINY, weights, "sdpa")
    assert model.layers[0].self_attn.q_proj.weight.data_ptr() == weights.layers[0].qkv.data_ptr()
    assert in_dtype(weights, torch.bfloat16).layers[1].down.dtype == torch.bfloat16


def run(monkeypatch: pytest.MonkeyPatch, module: object, out: Path, *arguments: str) -> dict[str, object]:
    monkeypatch.setattr(
        sys, "argv", ["bench_engine.py", "--size", "0.6B", "--device", "cpu", *arguments, "--out", str(out)]
    )
    for owner in (bench_engine, profile_engine):
        monkeypatch.setattr(owner, "QWEN3_EMBEDDING", {"0.6B": TINY})
    module.main()  # type: ignore[attr-defined]
    report: dict[str, object] = json.loads(out.read_text())
    return report


def without_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ceilings are given instead of measured."""
    monkeypatch.setattr(bench_engine, "product_rates", lambda *arguments: RATES)
    monkeypatch.setattr(bench_engine, "copy_rate", lambda *arguments: 1e10)


def test_a_whole_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without_ceilings(monkeypatch)
    report = run(monkeypatch, bench_engine, tmp_path / "r.json", *SHORT)
    cases = {case["name"]: case for case in report["cases"]}  # type: ignore[attr-defined]
    assert set(cases) == {"16", "mix", "queries"}
    rows = {row["name"]: row for row in cases["mix"]["results"]}
    names = ["ours float32", "ours bfloat16", "transformers", "sentence-transformers", "products"]
    assert list(rows) == names
    assert all(len(row["seconds"]) == 2 for row in rows.values())
    assert rows["sentence-transformers"]["lowest_cosine"] > 0.99999
    assert 0.999 < rows["ours bfloat16"]["lowest_cosine"] < 1
    assert rows["ours float32"]["over_floor"]["median"] > 0
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in names)


def instructions(monkeypatch: pytest.MonkeyPatch, *, bfloat16: bool, int8: bool) -> None:
    monkeypatch.setattr("serve_app.engine.cpu.multiplies_bfloat16", lambda: bfloat16)
    for question in ("multiplies_int8", "has_avx2"):
        monkeypatch.setattr(f"serve_app.engine.cpu.{question}", lambda: int8)


@pytest.mark.parametrize(
    ("bfloat16", "int8", "native"),
    [
        (False, False, ["float32"]),
        (False, True, ["float32", "int8"]),
        (True, True, ["float32", "bfloat16", "int8"]),
    ],
)
def test_all_dtypes_are_those_that_the_cpu_multiplies(
    monkeypatch: pytest.MonkeyPatch, bfloat16: bool, int8: bool, native: list[str]
) -> None:
    instructions(monkeypatch, bfloat16=bfloat16, int8=int8)
    cpu = torch.device("cpu")
    assert native_dtypes(cpu) == chosen_dtypes(["all"], cpu) == native
    assert chosen_dtypes(None, cpu) == ["float32"]
    assert chosen_dtypes(["bfloat16"], cpu) == ["bfloat16"]  # slow without instructions, but who asks gets it


@pytest.mark.parametrize(("capability", "native"), [((8, 0), ["bfloat16"]), ((8, 9), ["bfloat16", "fp8"])])
def test_all_dtypes_of_a_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], native: list[str]) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert native_dtypes(torch.device("cuda", 0)) == native


@pytest.mark.parametrize("module", [bench_engine, profile_engine])
def test_a_dtype_that_does_not_run_here_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: object
) -> None:
    instructions(monkeypatch, bfloat16=False, int8=False)
    monkeypatch.setattr(bench_engine, "random_weights", lambda *_: pytest.fail("weights were made"))
    monkeypatch.setattr(profile_engine, "random_weights", lambda *_: pytest.fail("weights were made"))
    with pytest.raises(SystemExit, match=r"--dtypes int8: dtype int8 needs .* `--dtypes all`"):
        run(monkeypatch, module, tmp_path / "r.json", "--dtypes", "float32", "int8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"--device: device 'cuda': torch .* finds no CUDA device"):
        run(monkeypatch, module, tmp_path / "r.json", "--device", "cuda")


def test_torch_and_transformers_are_enough() -> None:
    """What a bare GPU box has; sentence-transformers runs where it is."""
    absent = (
        "ray",
        "pydantic",
        "sentence_transformers",
        "starlette",
        "prometheus_client",
        "orjson",
        "msgspec",
        "typer",
    )
    code = f"import sys\nsys.modules.update(dict.fromkeys({absent}))\nimport loadtest.bench_engine, loadtest.profile_engine"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ceilings_come_from_the_fastest_call_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtest.engine_ceilings._SQUARES", {"cpu": (64,)})
    monkeypatch.setattr("loadtest.engine_ceilings._COPY_BYTES", {"cpu": 4096})
    cpu = torch.device("cpu")
    for dtype in ("float32", "bfloat16", "int8"):
        rates = product_rates(TINY, cpu, dtype, (32,), seconds=0.0)
        assert rates["best"] >= max(*rates["squares"].values(), *rates["model"].values()) > 0
        assert set(rates["calls"].values()) <= set(PRODUCTS[dtype])
    assert copy_rate(cpu, 0.0) > 0
    monkeypatch.setitem(PRODUCTS, "int8", {})
    with pytest.raises(RuntimeError, match="no int8 product runs on cpu"):
        product_rates(TINY, cpu, "int8", (32,), seconds=0.0)


def test_parity_is_checked_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*arguments: object) -> object:
        engine = ours(*arguments)  # type: ignore[arg-type]
        encode = engine.encode
        engine.encode = lambda ids: encode(ids) + np.float32(1e-3)  # type: ignore[method-assign]
        return engine

    monkeypatch.setattr(bench_engine, "ours", broken)
    with pytest.raises(SystemExit, match="differ from transformers"):
        run(monkeypatch, bench_engine, tmp_path / "r.json")


def test_the_page_is_rewritten_between_its_marks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text((Path(bench_engine.__file__).parent / "ROOFLINE.md").read_text())
    words = [line for line in page.read_text().splitlines() if line and not line.startswith(("|", "`"))]
    monkeypatch.setattr(sys, "argv", ["engine_roofline", "--into", str(page)])
    engine_roofline.main()
    written = page.read_text()
    assert "| 8B | 13.9 |" in written
    assert "| L4, data sheet | fp8 | 4B |" in written
    assert [line for line in written.splitlines() if line and not line.startswith(("|", "`"))] == words
    engine_roofline.main()
    assert page.read_text() == written
    with pytest.raises(ValueError, match="no single <!-- none -->"):
        engine_roofline.put(written, "none", "")


def test_on_a_gpu_a_part_counts_once() -> None:
    cpu, cuda = torch.autograd.DeviceType.CPU, torch.autograd.DeviceType.CUDA
    marks = [
        SimpleNamespace(key="part:norms", device_type=cpu, device_time_total=3e6, cpu_time_total=1e6),
        SimpleNamespace(key="part:norms", device_type=cuda, device_time_total=5e6, cpu_time_total=0),
        SimpleNamespace(key="aten::mm", device_type=cpu, device_time_total=9e6, cpu_time_total=9e6),
    ]
    assert profile_engine.part_seconds(marks, cuda=True) == {"norms": 3.0}
    assert profile_engine.part_seconds(marks, cuda=False) == {"norms": 1.0}


def test_the_profile_has_every_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = run(monkeypatch, profile_engine, tmp_path / "r.json", "--dtypes", "float32", "--tokens", "200")
    parts = report["seconds"]["float32"]  # type: ignore[index]
    wanted = {"products", "norms", "head norms and rotation", "SiLU and gate", "attention", "tokenizing"}
    assert wanted < set(parts)
    assert all(seconds > 0 for seconds in parts.values())
