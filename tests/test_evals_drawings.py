"""Drawings: what can be drawn is, small enough for a page; what can't is said."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from serve_app.evals.report.drawing import label, printable
from serve_app.evals.report.plots import draw, drawable
from serve_app.evals.result import Plot, SuiteResult
from tests.eval_page import written
from tests.eval_runs import run


@pytest.mark.parametrize(
    ("plot", "why"),
    [
        (Plot("pie", "x"), "there is no kind of drawing 'pie'"),
        (Plot("heatmap", "x", rows=["a"], columns=["b"], values=[[1.0, 2.0]]), "empty or don't fit"),
        (Plot("heatmap", "x", rows=["a", "b"], columns=["b"], values=[[1.0]]), "empty or don't fit"),
        (Plot("lines", "x", x=[1.0, 2.0], series={"a": [1.0]}), "empty or don't fit"),
        (Plot("scatter", "x", points=[[1.0, 2.0]], labels=["a", "b"]), "empty or don't fit"),
        (Plot("scatter", "x"), "empty or don't fit"),
        (Plot("histogram", "x", series={"a": []}), "empty or don't fit"),
    ],
)
def test_what_cannot_be_drawn_is_said_beside_what_can(plot: Plot, why: str, tmp_path: Path) -> None:
    assert why in drawable(plot)
    result = SuiteResult("pairs", "ours", "AP", [], plots=[plot])
    _, page = written(tmp_path, msgspec.structs.replace(run("ours"), results=[result], comparisons=[]))
    assert f"ours: not drawn, {drawable(plot)}." in page.words
    assert "svg" not in page.tags


def test_drawings_bear_extremes() -> None:
    flat = Plot("heatmap", "x", rows=["a"], columns=["b"], values=[[1.0]])
    large = Plot("heatmap", "x", rows=["a"] * 300, columns=["b"] * 300, values=[[0.5] * 300] * 300)
    one = Plot("lines", "x", x=[1.0], series={"a": [0.5]})
    same = Plot("histogram", "x", series={"a": [0.5, 0.5], "b": []})
    many = Plot("scatter", "x", points=[[n, -n] for n in range(20_000)], labels=[str(n % 30) for n in range(20_000)])
    below = Plot("lines", "x", x=[-1.0, 0.0, 100.0], series={"a": [0, 1, 2], "b": [2, 1, 0]})
    for plot in (flat, large, one, same, many, below):
        assert drawable(plot) == ""
        for targets in (1, 4):
            svg = draw({f"t{n}": plot for n in range(targets)}, "x")
            assert svg.startswith("<svg") and len(svg) < 600_000, (plot.kind, len(svg))


def test_targets_of_other_lengths_have_their_own_places_on_an_axis_of_the_same_kind() -> None:
    short = Plot("lines", "x", x=[32.0, 64.0], series={"a": [0.5, 1.0], "b": [0.4, 0.9]})
    long = Plot("lines", "x", x=[32.0, 4096.0], series={"a": [0.5, 1.0], "b": [0.4, 0.9]})
    svg = draw({"short": short, "long": long}, "x")
    assert [svg.count(f">{place}</text>") for place in ("32", "64", "4,096")] == [2, 1, 1]


def test_labels_are_text_that_fits() -> None:
    chinese = "退货政策第一条：商品签收后七天内可以无理由退货"
    assert label(chinese) == "退货政策第一条：商品签收后七天…"
    assert label("a" * 31) == "a" * 30 + "…"
    assert label("_a").endswith("_a") and not label("_a").startswith("_")
    assert printable("a\x00\u202eb\n c") == "a�b c"
    svg = draw({"$x$": Plot("heatmap", "x", rows=[chinese], columns=["b"], values=[[1.0]])}, "x")
    assert label(chinese) in svg and "$x$" in svg
