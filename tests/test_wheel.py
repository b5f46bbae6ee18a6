"""A wheel built from this repository, installed into a clean environment, serves."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest

from tests.running import RunningService

ROOT = Path(__file__).parents[1]


def run(*command: str | Path) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # By way of the source distribution, so that nothing left in this folder gets in.
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    [built] = folder.glob("*.whl")
    return built


def test_what_is_in_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"serve_app/py.typed", "serve_app/bench/page.html", "serve_app/evals/report/page.html"} <= set(names)
    assert {"serve_app/evals/README.md", "serve_app/training/README.md"} <= set(names), (
        "licence and formats of the texts"
    )
    known = {f"serve_app/engine/known/{file.name}" for file in (ROOT / "serve_app/engine/known").glob("*.json")}
    assert known and known <= set(names)
    prices = zipfile.ZipFile(wheel).read("serve_app/telemetry/prices.yaml")
    assert prices == (ROOT / "deploy" / "prices.yaml").read_bytes()
    for folder in ("serve_app/engine/demo_model", "serve_app/evals/data", "serve_app/training/data"):
        wanted = {str(file.relative_to(ROOT)) for file in (ROOT / folder).rglob("*") if file.is_file()}
        assert wanted == {name for name in names if name.startswith(f"{folder}/")}
        assert wanted
    for ending in (".py", ".cpp"):
        packaged = {name for name in names if name.endswith(ending)}
        assert packaged == {str(path.relative_to(ROOT)) for path in (ROOT / "serve_app").rglob(f"*{ending}")}


@pytest.mark.beside
def test_installed_in_a_clean_environment_it_serves(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    run(sys.executable, "-m", "venv", environment)
    python = environment / "bin" / "python"
    options = "--quiet", "--no-compile", "--disable-pip-version-check"
    pip = (python, "-m", "pip", "install", *options, "-c", ROOT / "constraints.txt")
    run(*pip, "--upgrade", "pip")
    run(*pip, "torch==2.13.0")
    run(*pip, wheel)
    with RunningService.start(tmp_path / "up.log", python=python) as running:
        reply = httpx.post(f"{running.base_url}/embeddings", json={"model": "demo", "input": "a"}, timeout=60)
        assert (reply.status_code, len(reply.json()["data"][0]["embedding"])) == (200, 128)
        load = f"bench --target ours={running.url} --workload query --rounds 1 --seconds 0.5 --connections 2"
        command = [environment / "bin" / "embedserve", *load.split(), "--out", tmp_path / "report"]
        without = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
        assert without.returncode == 1
        assert "pip install 'embedserve[load]'" in without.stderr
        run(*pip, f"{wheel}[load]")
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (tmp_path / "report" / "report.html").read_text(encoding="utf-8").count("<svg") == 4
    assert running.leftovers() == []
