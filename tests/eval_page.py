"""Reading a report's page as a strict reader would."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from serve_app.evals.report import write
from serve_app.evals.result import Run
from tests.eval_runs import paired

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Every tag closed in order; what it refers to, its text, and its tables' cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.rows: list[list[str]] = []
        self.words = ""
        self.size = len(text)
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            self.references += re.findall(r"url\(([^)]*)\)", value or "")
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            assert "@import" not in data
            assert "url(" not in data
            return
        self.words += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data + "\n" * (self.open[-1] == "small")


def written(folder: Path, whole: Run, before: Run | None = None) -> tuple[str, Page]:
    markdown, html = write(whole, folder, before, paired)
    assert (markdown.name, html.name) == ("report.md", "report.html")
    return markdown.read_text(encoding="utf-8"), Page(html.read_text(encoding="utf-8"))
