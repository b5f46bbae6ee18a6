"""Which code stands behind which kind of target. Each is imported when there is such a target."""

from __future__ import annotations

from serve_app.evals.target import Target
from serve_app.evals.target_backend import Backend


def backend_of(target: Target) -> Backend:
    """Made, not opened. Raises ImportError where a package is missing."""
    if target.kind in ("ours", "openai"):
        from serve_app.evals.openai_target import OpenAITarget

        return OpenAITarget(target)
    if target.kind == "cohere":
        from serve_app.evals.cohere_target import CohereTarget

        return CohereTarget(target)
    if target.kind == "local":
        from serve_app.evals.local_target import LocalTarget

        return LocalTarget(target)
    from serve_app.evals.tfidf_target import TfidfTarget

    return TfidfTarget()
