"""What a person at the terminal sees while it runs, and at its end."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from serve_app.evals.result import SuiteResult


class Shown:
    """A bar of suites and a bar of texts where the terminal can, and no word where it can't but of what fails."""

    def __init__(self, console: Console, steps: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._console = console
        self._said: set[str] = set()
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._steps = self._bars.add_task("suites", total=steps)
        self._texts = self._bars.add_task("texts", total=None, visible=False)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begins(self, target: str, suite: str) -> None:
        self._bars.update(self._steps, description=f"{target}: {suite}")

    def ends(self, target: str, suite: str, result: SuiteResult | str) -> None:
        self._bars.update(self._texts, visible=False)
        self._bars.advance(self._steps)
        if isinstance(result, str) and result not in self._said:
            self._said.add(result)  # a target that is gone fails in all suites for the same reason
            self._console.print(
                f"{suite} isn't measured: {result}", style="red", markup=False, highlight=False, soft_wrap=True
            )

    def warns(self, warning: str) -> None:
        self._console.print(warning, style="yellow", markup=False, highlight=False, soft_wrap=True)

    def texts(self, done: int, of: int) -> None:
        """So many of the texts that a suite asks for have vectors."""
        self._bars.update(self._texts, completed=done, total=of, visible=True)
