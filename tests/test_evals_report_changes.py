"""What changed between two runs, and reading an earlier run back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from serve_app import __version__
from serve_app.evals.report import StoredRunError, read, write
from serve_app.evals.report.changes import changes, warnings
from serve_app.evals.report.table import Table
from serve_app.evals.result import Run, Samples
from tests.eval_runs import paired, run


def tables(new: Run, old: Run) -> dict[str, Table]:
    return {table.title: table for table in changes(new, old, paired).tables}


def test_figures_old_and_new_with_a_test_where_there_are_items() -> None:
    new, old = run("ours", "hosted"), run("ours", "hosted", drop=0.15)
    first = tables(new, old)["Headline figures"]
    rows = {(row[0].text, row[1].text): [cell.text for cell in row[2:]] for row in first.rows}
    assert len(rows) == len(first.rows) == 8
    now = next(r for r in new.results if (r.suite, r.target) == ("crosslingual", "ours")).figures[0].value
    was = next(r for r in old.results if (r.suite, r.target) == ("crosslingual", "ours")).figures[0].value
    up = [f"{was:.3f}", f"{now:.3f}", f"{now - was:+.3f}", "160", "higher (p < 0.001)", "160 / 0 / 0"]
    assert rows["crosslingual", "ours"] == up
    same = ["+0.000", "160", "not significant (p = 0.310)", "0 / 0 / 160"]
    assert rows["crosslingual", "hosted"][2:] == same
    assert rows["clustering", "ours"][2:] == ["+0.150", "", "not tested", ""]
    everything = tables(new, old)["All figures of crosslingual, ours"]
    assert len(everything.rows) == len(next(r for r in new.results if r.suite == "crosslingual").figures)


def test_the_items_that_moved_most_by_id() -> None:
    new = run("ours")
    result = new.results[0]
    before = result.samples["nDCG@10"]
    values = list(before.values)
    values[5] -= 0.5
    values[9] += 0.25
    values[7] += 0.25
    old = with_samples(new, Samples(before.ids, values))
    rows = tables(new, old)["Items that moved most"].rows
    shown = [[cell.text for cell in row] for row in rows if row[0].text == "crosslingual"]
    assert [(row[2], row[5]) for row in shown] == [("q-005", "+0.500"), ("q-007", "-0.250"), ("q-009", "-0.250")]
    assert shown[0][3:5] == [f"{values[5]:.3f}", f"{before.values[5]:.3f}"]


def test_only_items_of_both_runs_are_compared() -> None:
    new = run("ours")
    before = new.results[0].samples["nDCG@10"]
    old = with_samples(new, Samples([*before.ids[10:], "q-new"], [*(0.0 for _ in before.ids[10:]), 1.0]))
    whole = changes(new, old, real)
    row = next(row for row in whole.tables[0].rows if row[0].text == "crosslingual")
    assert row[4].text == f"{np.mean(before.values[10:]):+.3f}"
    assert (row[5].text, row[6].text[:6]) == ("150", "higher")


def real(a: Any, b: Any, seed: int) -> Any:
    from serve_app.evals.statistics import compare

    return [found for found in compare(a, b, seed) if not found.group]


def with_samples(whole: Run, samples: Samples) -> Run:
    result = whole.results[0]
    other = msgspec.structs.replace(result, samples={**result.samples, "nDCG@10": samples})
    return msgspec.structs.replace(whole, results=[other, *whole.results[1:]])


def test_figures_of_only_one_run_are_told() -> None:
    new, old = run("ours"), run("ours")
    fewer = msgspec.structs.replace(old.results[0], figures=old.results[0].figures[1:])
    old = msgspec.structs.replace(old, results=[fewer, *old.results[1:]])
    for one, other, places in ((new, old, (1, 2)), (old, new, (2, 1))):
        rows = tables(one, other)["All figures of crosslingual, ours"].rows
        [row] = [row for row in rows if row[0].text == "nDCG@10"]
        assert (row[places[0]].text, row[5].text) == ("–", "only in one run")
        assert row[places[1]].text != "–"


def test_it_warns_of_what_else_differs() -> None:
    new, old = run("ours", "hosted"), run("ours", "older", seed=8)
    assert warnings(new, new) == []
    use = msgspec.structs.replace(
        old.targets[0], model="another/model", dimensions=256, described={**old.targets[0].described, "price": None}
    )
    old = msgspec.structs.replace(
        old,
        version="0.0.9",
        data={**old.data, "pairs": "f" * 64},
        targets=[use, *old.targets[1:]],
        results=[result for result in old.results if result.suite != "clustering"],
    )
    assert warnings(new, old) == [
        f"pairs: the data are not the same (SHA-256 ffffffffffff… before, {new.data['pairs'][:12]}… now).",
        "The seed was 8 and is 7.",
        "The earlier run was measured by embedserve 0.0.9, this one by 0.1.0.",
        "ours: the model was another/model and is Qwen/Qwen3-Embedding-0.6B.",
        "ours: vectors were 256 wide and are 1024.",
        "ours: price was not told and is 0.0215.",
        "Targets only in this run: hosted.",
        "Suites only in this run: clustering.",
        "Targets only in the earlier run: older.",
    ]


def test_changes_are_in_both_files(tmp_path: Path) -> None:
    markdown, html = write(run("ours"), tmp_path, run("ours", drop=0.2, seed=8), paired)
    for text in (markdown.read_text(encoding="utf-8"), html.read_text(encoding="utf-8")):
        assert "What changed" in text
        assert "The seed was 8 and is 7." in text
        assert "Items that moved most" in text


def test_a_run_is_read_back_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_bytes(msgspec.json.encode(run("ours", "hosted")))
    assert read(file) == run("ours", "hosted")


def edited(**fields: Any) -> bytes:
    content = {**msgspec.to_builtins(run("ours")), **fields}
    return msgspec.json.encode({name: value for name, value in content.items() if value is not ...})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# Embedding quality", r"isn't JSON .* not its report"),
        (b"", r"isn't JSON"),
        (b"\xff\xfe", r"isn't JSON"),
        (edited()[:-20], r"isn't JSON"),
        (b'{"rounds": []}', r"not the run.json of `embedserve eval`: it doesn't say which version"),
        (b"[]", r"not the run.json of `embedserve eval`"),
        (
            edited(format=2, version="9.0"),
            rf"embedserve 9.0 in format 2; embedserve {__version__} reads format 1. Measure again",
        ),
        (edited(seed=...), r"damaged or missing: Object missing required field `seed`.*Measure again"),
        (edited(results=[{"suite": 3}]), r"damaged or missing: Expected `str`, got `int` - at `\$.results\[0\].suite`"),
        (
            edited(
                results=[{"suite": "a", "target": "b", "headline": "c", "figures": [{"metric": "x", "value": None}]}]
            ),
            r"Expected `float`, got `null` - at `\$.results\[0\].figures\[0\].value`",
        ),
    ],
)
def test_what_is_no_run_is_refused_and_why(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_bytes(content)
    with pytest.raises(StoredRunError, match=message) as refused:
        read(file)
    assert str(refused.value).startswith(f"{file}: ")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoredRunError, match=r"can't be read \(No such file or directory\). Give the run.json"):
        read(tmp_path / "run.json")
    with pytest.raises(StoredRunError, match=r"can't be read \(Is a directory\)"):
        read(tmp_path)


def test_samples_that_do_not_fit_their_ids_are_refused(tmp_path: Path) -> None:
    whole = with_samples(run("ours"), Samples(["a", "b"], [1.0]))
    file = tmp_path / "run.json"
    file.write_bytes(msgspec.json.encode(whole))
    with pytest.raises(StoredRunError, match=r"crosslingual on ours: nDCG@10 has 2 ids and 1 values"):
        read(file)
