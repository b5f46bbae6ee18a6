"""The report's two files."""

from __future__ import annotations

from pathlib import Path

from serve_app.evals.report import markdown, page
from serve_app.evals.report.changes import PairedTest
from serve_app.evals.report.document import document
from serve_app.evals.result import Run
from serve_app.evals.statistics import compare


def write(run: Run, folder: Path, before: Run | None, test: PairedTest = compare) -> list[Path]:
    """`report.md` and `report.html` in `folder`, which is made if need be; the same bytes for the same runs. `before` is an
    earlier run to compare with."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = document(run, before, test)
    contents = {"report.md": markdown.render(whole), "report.html": page.render(whole, run)}
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8", newline="\n")
    return [folder / name for name in contents]
