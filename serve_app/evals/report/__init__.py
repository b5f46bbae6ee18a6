"""What a run found, for people: Markdown, one HTML page, and what changed since an earlier run."""

from serve_app.evals.report.files import write
from serve_app.evals.report.stored import StoredRunError, read

__all__ = ["StoredRunError", "read", "write"]
