"""embedserve: a self-hosted embedding cluster for the Qwen3-Embedding models on Ray Serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["build"]

if TYPE_CHECKING:
    from serve_app.cluster.graph import build


def __getattr__(name: str) -> Any:
    # `serve run serve_app:build` needs the name here, but importing the engine must pull in neither Ray nor pydantic.
    if name == "build":
        from serve_app.cluster.graph import build  # noqa: PLC0415

        return build
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
