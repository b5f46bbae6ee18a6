"""Every PromQL expression under deploy/, with where it stands."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from tests.promtool import DEPLOY, RULES

DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "embedserve.json").read_text(encoding="utf-8"))

# A metric, and its selector if it has one.
_SELECTOR = re.compile(r"\b(embedserve[_:][a-zA-Z0-9_:]*)(?:\{([^}]*)\})?")


def rules() -> list[dict[str, Any]]:
    """The recording rules (with `record`) and alerts (with `alert`), in the order of the files."""
    groups = [group for file in RULES for group in msgspec.yaml.decode(file.read_bytes())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels, without the rows."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """By place: a rule's name, or a panel's title and the letter of its query."""
    found = {str(rule.get("record") or rule["alert"]): str(rule["expr"]) for rule in rules()}
    for panel in panels():
        for target in panel["targets"]:
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    return found


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """The metrics of an expression, each with the labels it is selected by."""
    return [(name, set(re.findall(r"(\w+)\s*[=!]", matchers))) for name, matchers in _SELECTOR.findall(expression)]


def selected(expression: str) -> list[str]:
    """The instant selectors of an expression, as they stand there."""
    return [match[0] for match in _SELECTOR.finditer(expression)]


def grouped_by(expression: str) -> set[str]:
    """All labels in `by (…)`."""
    return {label for labels in re.findall(r"\bby \(([\w, ]*)\)", expression) for label in re.findall(r"\w+", labels)}
