"""The command line of `embedserve eval`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from serve_app.evals.target import FORM, Target, TargetError

if TYPE_CHECKING:
    from serve_app.evals.suites import Suite

REFUSED = 2
"""Exit code of what can't be started; 1 is for targets that weren't measured in every suite."""


def eval_command(environment: Mapping[str, str]) -> Callable[..., None]:
    """The command; keys of targets are looked up in `environment`."""

    def evaluate(
        target: Annotated[
            list[str] | None,
            typer.Option(
                metavar="NAME=WHAT[,…]",
                help=f"{FORM}; repeatable. Options, with commas: key-env, model, url, price, batch, instructions=prefix.",
            ),
        ] = None,
        suite: Annotated[list[str] | None, typer.Option(help="Repeatable, or with commas; `all` if unset.")] = None,
        data: Annotated[
            list[str] | None, typer.Option(metavar="SUITE=FOLDER", help="Your own texts for a suite; repeatable.")
        ] = None,
        out: Annotated[Path, typer.Option(help="Folder for run.json, report.md and report.html.")] = Path(
            "eval-report"
        ),
        compare: Annotated[
            Path | None, typer.Option(metavar="RUN.JSON", help="An earlier run: the report says what changed.")
        ] = None,
        seed: Annotated[int, typer.Option(min=0, help="Of resampling and clustering.")] = 0,
        concurrency: Annotated[int, typer.Option(min=1, max=64, help="Requests at once.")] = 4,
        cache: Annotated[
            Path | None, typer.Option(help="Folder for vectors that were given; unset: ~/.cache/embedserve/eval.")
        ] = None,
        no_cache: Annotated[bool, typer.Option("--no-cache", help="Ask for every vector anew, and keep none.")] = False,
        prices: Annotated[Path | None, typer.Option(help="Another price book than the one that comes along.")] = None,
        list_suites: Annotated[bool, typer.Option("--list", help="Say which suites there are.")] = False,
    ) -> None:
        """Measure how well embedding services find, pair and group texts, and write a report that compares them."""
        try:
            from serve_app.evals.run_all import Plan, run_all
            from serve_app.evals.suites import SUITES
        except ImportError as error:
            _fail(f"The quality kit isn't installed ({error}): pip install 'embedserve[eval]'.")
        if list_suites:
            print("\n".join(f"{each.name:14}{each.about}" for each in SUITES.values()))
            return
        if cache and no_cache:
            _fail("--cache and --no-cache contradict each other.")
        names = _chosen(suite or ["all"], SUITES)
        plan = Plan(
            targets=_targets(target or [], environment),
            suites=[SUITES[name] for name in names],
            folders=_folders(data or [], names, SUITES),
            out=out,
            before=compare,
            seed=seed,
            concurrency=concurrency,
            cache=None if no_cache else cache or Path.home() / ".cache" / "embedserve" / "eval",
            prices=prices,
            command=["embedserve", *sys.argv[1:]],
        )
        code = run_all(plan)
        if code:
            raise typer.Exit(code)

    return evaluate


def _chosen(texts: list[str], suites: Mapping[str, Suite]) -> list[str]:
    """The names of suites, in the order of `suites`."""
    names = {name for text in texts for name in text.split(",") if name}
    if unknown := sorted(names - {"all", *suites}):
        _fail(f"Unknown suite {', '.join(unknown)}; there are {', '.join(suites)} and all.")
    if not names:
        _fail("--suite names none.")
    return [name for name in suites if "all" in names or name in names]


def _folders(texts: Iterable[str], chosen: list[str], suites: Mapping[str, Suite]) -> dict[str, Path]:
    """Folders of the user's own data, by suite."""
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not (equals and folder):
            _fail(f"--data {text!r} isn't SUITE=FOLDER.")
        if name not in suites:
            _fail(f"--data {text}: unknown suite {name}; there are {', '.join(suites)}.")
        if name not in chosen:
            _fail(f"--data {text}: that suite doesn't run; add --suite {name}.")
        if name in found:
            _fail(f"--data: {name} is there twice.")
        if not Path(folder).is_dir():
            _fail(f"--data {text}: there is no folder {folder}.")
        found[name] = Path(folder)
    return found


def _targets(texts: list[str], environment: Mapping[str, str]) -> list[Target]:
    """The targets, no two of a name."""
    if not texts:
        _fail(f"Nothing to measure: give --target, which is {FORM}.")
    try:
        targets = [Target.of(text, environment) for text in texts]
    except TargetError as error:
        _fail(f"--target {error}")
    if len({each.name for each in targets}) < len(targets):
        _fail("Two targets have the same name.")
    return targets


def _fail(message: str) -> NoReturn:
    print(f"embedserve: {message}", file=sys.stderr)
    raise typer.Exit(REFUSED)
