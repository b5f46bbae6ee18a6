"""The import law: which layer may know which, and what each process must not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import serve_app

ROOT = Path(serve_app.__file__).parent
LEAVES = {"serve_app.types", "serve_app.errors", "serve_app"}
LAYERS = {
    "engine": LEAVES | {"serve_app.engine"},
    "api": LEAVES | {"serve_app.api"},
    "access": LEAVES | {"serve_app.access"},
    "telemetry": LEAVES | {"serve_app.telemetry"},
    "bench": LEAVES | {"serve_app.bench", "serve_app.telemetry"},
    "evals": LEAVES | {"serve_app.evals", "serve_app.telemetry", "serve_app.api.quantise"},
    "training": LEAVES | {"serve_app.training", "serve_app.engine"},
    "verify": LEAVES | {"serve_app.verify", "serve_app.engine", "serve_app.cluster.service"},
    "cluster": LEAVES
    | {
        "serve_app.cluster",
        "serve_app.access",
        "serve_app.api",
        "serve_app.telemetry",
        "serve_app.engine",
        "serve_app.config",
    },
}
THIRD_PARTY = {
    "engine": {"torch", "transformers", "safetensors", "tokenizers", "huggingface_hub", "numpy"},
    "api": {"starlette", "msgspec", "orjson", "numpy"},
    "access": {"msgspec"},
    "serve_app.access.redis_limiter": {"redis"},
    "telemetry": {"prometheus_client", "pydantic", "msgspec"},
    "bench": {"httptools", "uvloop", "orjson", "numpy", "typer", "rich", "matplotlib", "jinja2", "markupsafe"},
    "evals": {
        "cohere",
        "httpx",
        "jinja2",
        "markupsafe",
        "matplotlib",
        "msgspec",
        "numpy",
        "openai",
        "rich",
        "scipy",
        "sklearn",
        "typer",
    },
    "serve_app.evals.local_target": {"sentence_transformers"},
    "serve_app.evals.mteb_encoder": {"mteb", "torch"},
    "verify": {"httpx", "numpy", "safetensors", "torch", "typer"},
    "training": {"torch", "transformers", "safetensors", "tokenizers", "numpy"},
    "serve_app.telemetry.ledger_redis": {"redis"},
    "serve_app.telemetry.tracing": {"opentelemetry"},
    "serve_app.telemetry.nodes": {"ray"},  # the one file that carries metrics from node to node
}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports_of(path: Path) -> Iterator[tuple[str, bool]]:
    """Absolute names imported, and whether at module level at run time (not inside a function or TYPE_CHECKING)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    later = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in later
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or "", id(node) not in later


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_what_lies_below(layer: str) -> None:
    wrong = []
    for module, path in modules():
        if not module.startswith(f"serve_app.{layer}"):
            continue
        for name, _ in imports_of(path):
            if name.split(".")[0] == "serve_app":
                if not any(
                    name == allowed or (allowed != "serve_app" and name.startswith(allowed + "."))
                    for allowed in LAYERS[layer]
                ):
                    wrong.append(f"{module} imports {name}")
            elif layer in THIRD_PARTY:
                top = name.split(".")[0]
                if top not in sys.stdlib_module_names | THIRD_PARTY[layer] | THIRD_PARTY.get(module, set()):
                    wrong.append(f"{module} imports {name}")
    assert not wrong


def test_leaves_import_nothing_of_the_package() -> None:
    allowed = {
        "serve_app.config": ("serve_app.types", "serve_app.config"),
        "serve_app.types": ("serve_app.types",),
        "serve_app.errors": ("serve_app.errors",),
    }
    for module, path in modules():
        if (leaf := ".".join(module.split(".")[:2])) in allowed:
            found = {name for name, _ in imports_of(path) if name.startswith("serve_app")}
            assert {name for name in found if not name.startswith(allowed[leaf])} == set()


def test_no_import_cycles() -> None:
    known = dict(modules())
    graph = {
        module: {name for name, at_load in imports_of(path) if at_load and name in known and name != module}
        for module, path in known.items()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for name in graph[module] - {"serve_app"}:
                visit(name, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_environment_is_read_in_one_place() -> None:
    readers = [
        module
        for module, path in modules()
        if "os.environ" in path.read_text(encoding="utf-8") or "os.getenv" in path.read_text(encoding="utf-8")
    ]
    # The command prepares Ray's environment; the graph checks that it was prepared. Settings never come from it.
    # (Nor does anything of ours read what is put there for prometheus_client, which asks nowhere else for its directory.)
    assert set(readers) <= {"serve_app.cli", "serve_app.cluster.graph", "serve_app.telemetry.process"}


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in `sys.modules` of a fresh interpreter after `statement`."""
    code = f"import sys\n{statement}\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import serve_app", {"ray", "torch", "pydantic", "starlette", "numpy"}),
        ("import serve_app.engine.engine, serve_app.engine.batcher", {"ray", "pydantic", "starlette", "msgspec"}),
        ("import serve_app.api.app", {"ray", "torch", "transformers", "pydantic"}),
        ("import serve_app.access.gate", {"ray", "torch", "pydantic", "starlette", "redis"}),
        ("import serve_app.cluster.gateway", {"torch", "transformers"}),
        ("import serve_app.cluster.graph", {"torch", "transformers"}),
        ("import serve_app.cli", {"ray", "torch", "transformers"}),
    ],
)
def test_what_a_process_does_not_load(statement: str, absent: set[str]) -> None:
    assert not loaded_by(statement) & absent
