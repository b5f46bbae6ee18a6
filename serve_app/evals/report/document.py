"""The whole report, before it is Markdown or HTML."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

import msgspec

from serve_app.evals.report.changes import PairedTest, changes
from serve_app.evals.report.lookup import suites, targets
from serve_app.evals.report.overview import overview
from serve_app.evals.report.suite import suite_part
from serve_app.evals.report.table import Part, Table, words
from serve_app.evals.result import Run


@dataclass(frozen=True)
class Document:
    title: str
    overview: Part
    changes: Part | None
    suites: list[Part]
    about: Part


def document(run: Run, before: Run | None, test: PairedTest) -> Document:
    return Document(
        f"Embedding quality: {', '.join(targets(run))}",
        Part("At a glance", [overview(run)], _remarks(run)),
        changes(run, before, test) if before else None,
        [suite_part(run, suite) for suite in suites(run)],
        _about(run, before),
    )


def _remarks(run: Run) -> list[str]:
    """What is to be known about targets, and what failed."""
    notes = [f"{use.name}: {note}" for use in run.targets for note in dict.fromkeys(use.notes)]
    return [*notes, *(f"{place} was not measured: {why}" for place, why in run.failures.items())]


def _about(run: Run, before: Run | None) -> Part:
    """How to get the same figures again."""
    rows = [
        [words("command"), words(shlex.join(run.command))],
        [words("seed"), words(str(run.seed))],
        [words("embedserve"), words(run.version)],
        [words("started"), words(run.started)],
    ]
    if before:
        rows.append([words("earlier run"), words(f"started {before.started}, embedserve {before.version}")])
    data = [[words(suite), words(digest)] for suite, digest in run.data.items()]
    told = [
        [words(use.name), words("; ".join(f"{key}: {_plain(value)}" for key, value in use.described.items()))]
        for use in run.targets
    ]
    tables = [
        Table(["", ""], rows),
        Table(["suite", "SHA-256 of its data"], data, "Data"),
        Table(["target", "what was told about it"], told, "Targets"),
    ]
    return Part("How it was measured", [table for table in tables if table.rows])


def _plain(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
