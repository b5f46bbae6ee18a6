"""The report as Markdown (GitHub's flavour): tables without drawings, to be put into an issue or a repository."""

from __future__ import annotations

import re

from serve_app.evals.report.document import Document
from serve_app.evals.report.drawing import printable
from serve_app.evals.report.reading import READING
from serve_app.evals.report.table import Cell, Part, Table

_SPECIAL = re.compile(r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_]))")
_AT_THE_START = re.compile(r"^([-+#=](?![\d.])|\d+(?=[.)](?:\s|$)))")


def render(document: Document) -> str:
    parts = [f"# {escape(document.title)}", *READING]
    for part in (document.overview, document.changes, *document.suites, document.about):
        if part is not None:
            parts += _part(part)
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """As text, on one line, whatever is in it: no markup, no HTML, no links."""
    safe = _SPECIAL.sub(r"\\\1", printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
    safe = re.sub(r"(?<!\w)@", "&#64;", safe.replace("://", "&#58;//").replace("www.", "www&#46;"))
    return _AT_THE_START.sub(lambda found: f"&#{ord(found[0][0])};{found[0][1:]}", safe)


def _part(part: Part) -> list[str]:
    shown = [table for table in part.tables if not table.page_only]
    blocks = [f"## {escape(part.title)}"]
    if part.remarks:
        blocks.append("\n".join(f"- {escape(remark)}" for remark in part.remarks))
    group = ""
    for table in shown:
        blocks += [f"### {escape(table.group)}"] * (table.group not in ("", group))
        group = table.group
        blocks += [f"{'####' if group else '###'} {escape(table.title)}"] * bool(table.title)
        blocks += [escape(table.note)] * bool(table.note)
        blocks.append(_table(table))
    if hidden := [
        " ".join(filter(None, (table.title, table.group.lower()))) for table in part.tables if table.page_only
    ]:
        blocks.append(f"In report.html beside this file: {escape('; '.join(hidden))}.")
    return blocks


def _table(table: Table) -> str:
    numeric = [not all(row[index].words for row in table.rows) for index in range(len(table.head))]
    lines = [
        [escape(title) for title in table.head],
        ["---:" if right else "---" for right in numeric],
        *([_cell(cell) for cell in row] for row in table.rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Cell) -> str:
    text = escape("; ".join([cell.text, *cell.more]))
    text = f"**{text}**" if cell.best and text else text
    return f"{text} ({escape(cell.small)})" if cell.small else text
