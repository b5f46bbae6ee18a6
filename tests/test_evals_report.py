"""The report of a quality run: the same figures as the run has, set as text whatever is in them."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from serve_app.evals.report import write
from serve_app.evals.report.markdown import escape
from serve_app.evals.report.overview import overview, verdict
from serve_app.evals.report.suite import suite_part
from serve_app.evals.result import Comparison, Figure, Plot, Run
from tests.eval_page import Page, written
from tests.eval_runs import LANGUAGES, paired, run, with_failure

HOSTILE = (
    '<script>alert("x")</script>',
    "a|b\\|c`d`*e*_f_[g](http://evil.example)$h$",
    "_first\n# heading\n| x |\u202e\x00\x1b",
)


@pytest.fixture(scope="module")
def three() -> Run:
    return with_failure(run("ours", "hosted", "tfidf"), "tfidf", "pairs", "the server answered 500")


@pytest.fixture(scope="module")
def shown(three: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    return written(tmp_path_factory.mktemp("report"), three)


def test_the_page_needs_nothing_else(shown: tuple[str, Page]) -> None:
    _, page = shown
    for reference in page.references:
        assert reference.startswith("data:image/png;base64,") or reference[1:] in page.ids, reference[:80]
    assert not {"script", "link", "iframe", "img", "object", "base", "form"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("svg") == 7
    assert page.size < 1_000_000


def test_same_runs_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(run("ours"), tmp_path / name, run("ours", seed=8), paired)
    for file in ("report.md", "report.html"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_every_figure_is_there_as_it_is(three: Run, shown: tuple[str, Page]) -> None:
    _, page = shown
    cells = [cell for row in page.rows for cell in row]
    for result in three.results:
        for figure in result.figures:
            shown = f"{figure.value:,.5g} bytes" if figure.unit else f"{figure.value:.3f}"
            if figure.low is not None and figure.high is not None:
                shown += f"{figure.low:.3f} to {figure.high:.3f}"
            assert any(cell.strip() == shown for cell in cells), (result.suite, figure, shown)


def test_the_overview_has_quality_cost_and_latency_in_one_table(three: Run, shown: tuple[str, Page]) -> None:
    markdown, page = shown
    table = {row[0]: row[1:] for row in page.rows[: len(overview(three).rows) + 1]}
    assert next(iter(table)) == ""
    assert table[""] == ["ours", "hosted", "tfidf", "difference between targets"]
    [cross] = [row for name, row in table.items() if name.startswith("crosslingual")]
    figures = [result.figures[0] for result in three.results if result.suite == "crosslingual"]
    assert [cell[:5] for cell in cross[:3]] == [f"{figure.value:.3f}" for figure in figures]
    assert table["USD per million tokens"][:3] == ["0.0215", "0.043", "not known"]
    assert table["USD of this run"][:3] == ["0.001102", "0.002203", "not known"]
    assert table["latency p50of a request\n"][:3] == ["82.5 ms", "82.5 ms", "–"]
    assert table["latency p95of a request\n"][:3] == ["314.1 ms", "314.1 ms", "–"]
    assert table["tokensas the target counts\n"][:3] == ["51,234", "51,234", "–"]
    assert table["of these keptasked for before\n"][:3] == ["25%"] * 3
    [pairs] = [row for name, row in table.items() if name.startswith("pairs")]
    assert pairs[2] == "failed"
    assert "tfidf/pairs was not measured: the server answered 500" in page.words
    assert "- tfidf/pairs was not measured: the server answered 500" in markdown


def test_the_best_is_marked_only_where_it_is_significantly_better_than_all() -> None:
    whole = run("ours", "hosted", "tfidf")
    assert verdict(whole, "crosslingual") == (
        None,
        ["ours is better than tfidf (p < 0.001)", "ours against hosted: not significant (p = 0.310)"],
    )
    apart = msgspec.structs.replace(
        whole, comparisons=[msgspec.structs.replace(c, significant=True, p_value=0.01) for c in whole.comparisons]
    )
    assert verdict(apart, "crosslingual") == (
        "ours",
        ["ours is better than hosted (p = 0.010) and tfidf (p = 0.010)"],
    )
    assert [cell.best for cell in overview(apart).rows[0]] == [False, True, False, False, False]
    assert verdict(whole, "clustering") == (
        None,
        ["ours against hosted: not tested", "ours against tfidf: not tested"],
    )
    assert verdict(run("ours"), "pairs") == (None, ["nothing to compare with"])
    assert len(overview(run("ours")).head) == 2


def test_a_test_is_found_whichever_way_round_it_was_made() -> None:
    whole = run("tfidf", "hosted", "ours")
    turned = msgspec.structs.replace(
        whole,
        comparisons=[
            Comparison(
                c.suite, c.metric, c.group, c.b, c.a, -c.difference, -c.high, -c.low, c.p_value, c.n, c.significant
            )
            for c in whole.comparisons
        ],
    )
    for suite in ("crosslingual", "pairs", "clustering"):
        assert verdict(turned, suite) == verdict(whole, suite)
    worse = msgspec.structs.replace(
        whole, comparisons=[msgspec.structs.replace(c, difference=-0.2, significant=True) for c in whole.comparisons]
    )
    # A test that says the opposite of the figures (other items) makes nothing the best.
    assert verdict(worse, "pairs")[0] is None


def test_not_significant_is_said_of_those_tests_and_no_others(three: Run, shown: tuple[str, Page]) -> None:
    markdown, page = shown
    chance = [c for c in three.comparisons if not c.significant]
    headlines = [c for c in chance if not c.group]
    assert chance and len(chance) < len(three.comparisons)
    # Each in its suite's table; those of the headline figures, all of which have the best target in them, in the overview as well.
    assert page.words.count("not significant") == len(chance) + len(headlines)
    assert markdown.count("not significant") == 2 * len(headlines)
    for row in page.rows:
        if len(row) == 6 and row[1] in ("ours", "hosted") and row[2] in ("hosted", "tfidf"):
            [test] = [c for c in three.comparisons if row[0].strip() == c.metric + c.group and [c.a, c.b] == row[1:3]]
            assert ("not significant" in row[5]) is not test.significant
            assert row[3].startswith(f"{test.difference:+.3f}")


def test_whatever_is_in_a_name_is_shown_as_text(tmp_path: Path) -> None:
    plain = run(*HOSTILE)
    noted = [msgspec.structs.replace(result, notes=[HOSTILE[0], HOSTILE[1]]) for result in plain.results]
    grouped = [
        msgspec.structs.replace(figure, group=f"{figure.group} {HOSTILE[0]} {HOSTILE[1]}") if figure.group else figure
        for figure in noted[0].figures
    ]
    series = {HOSTILE[1]: [0.1, 0.2], HOSTILE[2]: [0.2, 0.3], HOSTILE[0]: [0.2, 0.3]}
    plots = [
        Plot("lines", HOSTILE[0], x=[1.0, 2.0], series=series, x_label=HOSTILE[0], y_label=HOSTILE[1]),
        Plot("heatmap", HOSTILE[1], rows=list(HOSTILE), columns=list(HOSTILE), values=[[1.0, 2.0, 3.0]] * 3),
        Plot("scatter", HOSTILE[2], points=[[0, 0], [1, 1]], labels=[*HOSTILE[:2]], marks=[*HOSTILE[1:]]),
    ]
    noted[0] = msgspec.structs.replace(noted[0], figures=grouped, plots=plots)
    whole = msgspec.structs.replace(
        plain,
        results=noted,
        command=list(HOSTILE),
        failures={f"{HOSTILE[0]}/faq": HOSTILE[1]},
        data={HOSTILE[0]: HOSTILE[1]},
        targets=[msgspec.structs.replace(use, described={HOSTILE[1]: HOSTILE[0]}) for use in plain.targets],
    )
    markdown, page = written(tmp_path, whole, plain)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html + markdown
    assert HOSTILE[0] in page.words
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e]", html + markdown)
    assert not re.search(r"(?<!\\)[`*|$]", re.sub(r"^\| .* \|$|\*\*", "", markdown, flags=re.M))
    assert "http://" not in markdown
    assert "## heading" not in markdown and "\n# heading" not in markdown
    well_formed(markdown)


def well_formed(markdown: str) -> None:
    """All rows of a table have as many cells as its head."""
    tables = re.findall(r"(?:^\|.*\n)+", markdown, flags=re.M)
    assert tables
    for table in tables:
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()]
        assert len({len(row) for row in rows}) == 1, table
        assert all(re.fullmatch(r" ---:? ", cell) for cell in rows[1])


def test_markdown_tables_are_well_formed(shown: tuple[str, Page]) -> None:
    markdown, _ = shown
    well_formed(markdown)
    assert "nDCG@10" in markdown
    assert "In report.html beside this file" in markdown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("hosted_v3 0.5 - x", "hosted_v3 0.5 - x"),
        ("_x_ *y*", r"\_x\_ \*y\*"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("- a", "&#45; a"),
        ("+0.1", "+0.1"),
        ("1. a", "&#49;. a"),
        ("a\nb\tc", "a b c"),
        ("see https://a.example, @me", "see https&#58;//a.example, &#64;me"),
    ],
)
def test_markdown_is_escaped(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_languages_make_a_matrix_and_words_behind_them_its_title(three: Run) -> None:
    tables = [table for table in suite_part(three, "crosslingual").tables if table.group.startswith("P@5 from")]
    assert [table.title for table in tables] == ["ours", "hosted", "tfidf"]
    values = {f.group: f.value for f in three.results[0].figures if f.group}
    assert tables[0].head == ["from→to", "zh", "en", "ja", "es"]
    for row in tables[0].rows:
        for column, cell in zip(tables[0].head[1:], row[1:], strict=True):
            assert cell.text == f"{values[f'{row[0].text}→{column}']:.3f}"
    figures = three.results[0].figures
    more = [Figure("P@5", 0.5, group=f"{language}→all") for language in LANGUAGES]
    more += [msgspec.structs.replace(one, group=f"{one.group} in the pool") for one in figures if one.group]
    both = msgspec.structs.replace(three.results[0], figures=[*more[:4], *figures, *more[4:]])
    only = suite_part(msgspec.structs.replace(three, results=[both]), "crosslingual")
    heads = {table.group: table.head for table in only.tables if table.group.startswith("P@5 from")}
    assert heads == {
        "P@5 from language to language": ["from→to", "zh", "en", "ja", "es", "all"],
        "P@5 from language to language in the pool": ["from→to", "zh", "en", "ja", "es"],
    }
    [parts] = [table for table in only.tables if table.group == "By part"]
    assert parts.page_only and len(parts.rows) == 36, "Markdown has the matrices"


def test_one_target_has_all_metrics_of_its_groups_side_by_side() -> None:
    [table] = [table for table in suite_part(run("ours"), "pairs").tables if table.group]
    assert table.head == ["part", "accuracy", "AUC", "items"]
    assert [row[0].text for row in table.rows] == ["paraphrase", "translation", "negation", "role", "number", "format"]


def test_notes_that_all_share_are_said_once(shown: tuple[str, Page]) -> None:
    markdown, page = shown
    assert page.words.count("Relevant are all titles of the query's topic.") == 1
    assert markdown.count("Relevant are all titles of the query's topic.") == 1


def test_a_run_that_found_nothing_is_a_report_too(tmp_path: Path) -> None:
    nothing = msgspec.structs.replace(
        run("ours"), results=[], comparisons=[], data={}, failures={"ours/pairs": "refused", "ours/faq": "refused"}
    )
    markdown, page = written(tmp_path, nothing)
    assert "ours/pairs was not measured: refused" in markdown
    assert "svg" not in page.tags
