"""What was checked, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from serve_app.engine.finding import Finding, failures


@dataclass(slots=True)
class Report:
    """All findings about `subject`; `known` says which checkpoint with known scores it is, and what it was known by."""

    subject: str
    known: str = ""
    findings: list[Finding] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not failures(self.findings)

    def as_json(self) -> str:
        """An object: `subject`, `known`, `passed`, `findings`, each with `check`, `passed` (null: couldn't be made) and `said`."""
        fields = {
            "subject": self.subject,
            "known": self.known,
            "passed": self.passed,
            "findings": [asdict(finding) for finding in self.findings],
        }
        return json.dumps(fields, indent=2, ensure_ascii=False)

    def as_table(self) -> str:
        """A line for each check, and one for the whole."""
        words = {True: "ok", False: "WRONG", None: "-"}
        width = max((len(finding.check) for finding in self.findings), default=0)
        lines = [f"{words[each.passed]:5}  {each.check:{width}}  {each.said}" for each in self.findings]
        wrong = len(failures(self.findings))
        verdict = f"{wrong} of {len(self.findings)} checks failed" if wrong else "nothing is wrong"
        skipped = sum(finding.passed is None for finding in self.findings)
        said = f"{self.subject}: {verdict}" + (f", {skipped} couldn't be made" if skipped else "")
        return "\n".join([*lines, said])
