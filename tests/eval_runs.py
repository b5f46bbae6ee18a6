"""Runs of `embedserve eval` as the suites make them, with invented figures."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np

from serve_app.evals.result import Comparison, Figure, Plot, Run, Samples, SuiteResult, TargetUse

LANGUAGES = ("zh", "en", "ja", "es")
SKILL = {"ours": 0.82, "hosted": 0.80, "tfidf": 0.41}


def run(*names: str, seed: int = 7, drop: float = 0.0) -> Run:
    """All suites on targets of these names, whose skill is given by place in `SKILL`; `drop` makes the first one worse."""
    results = []
    for index, name in enumerate(names):
        skill = [*SKILL.values()][index % 3] - (drop if index == 0 else 0)
        results += [
            crosslingual(name, skill, seed + index),
            pairs(name, skill, seed + index),
            clustering(name, skill, seed),
            compression(name, skill),
        ]
    return Run(
        version="0.1.0",
        started="2026-01-02T03:04:05+00:00",
        command=["embedserve", "eval", "--target", "ours=http://localhost:8000", "--suite", "all", "--seed", str(seed)],
        seed=seed,
        data={suite: hashlib.sha256(suite.encode()).hexdigest() for suite in dict.fromkeys(r.suite for r in results)},
        targets=[use(name, index) for index, name in enumerate(names)],
        results=sorted(
            results, key=lambda result: ["crosslingual", "pairs", "clustering", "compression"].index(result.suite)
        ),
        comparisons=compared(results, names),
    )


def use(name: str, index: int) -> TargetUse:
    if index == 2:
        return TargetUse(name, "character n-grams", 20_000, {"what": "tfidf"}, texts=2400, cached=600, seconds=0.4)
    return TargetUse(
        name,
        "Qwen/Qwen3-Embedding-0.6B" if index == 0 else "embed-multilingual-v3.0",
        1024,
        {"url": "http://localhost:8000/v1", "instructions": index == 0, "price": 0.0215 * (index + 1)},
        texts=2400,
        cached=600,
        tokens=51_234,
        requests=75,
        seconds=61.25,
        latency_p50=0.0825,
        latency_p95=0.3141,
        usd=0.0011015 * (index + 1),
        usd_per_million_tokens=0.0215 * (index + 1),
        notes=["truncated 3 texts"] if index else [],
    )


def samples(skill: float, count: int, seed: int, prefix: str) -> Samples:
    draws = np.random.default_rng(seed).random(count)
    values = np.clip(np.round(skill + (draws - 0.5) * 0.4, 4), 0, 1)
    return Samples([f"{prefix}-{n:03d}" for n in range(count)], [float(value) for value in values])


def figure(metric: str, of: Samples, group: str = "", name: str | None = None) -> Figure:
    mean = float(np.mean(of.values))
    return Figure(metric, mean, mean - 0.021, mean + 0.019, group, len(of.ids), name)


def crosslingual(target: str, skill: float, seed: int) -> SuiteResult:
    whole = samples(skill, 160, seed, "q")
    kept = {"nDCG@10": whole}
    figures = [figure("nDCG@10", whole, name="nDCG@10"), Figure("language bias", 0.12 + skill / 10, n=160)]
    for start in LANGUAGES:
        for end in LANGUAGES:
            group = f"{start}→{end}"
            part = samples(skill - 0.1 * (start != end), 40, seed + ord(start[0]) + ord(end[0]), f"q-{start}")
            kept[f"P@5 {group}"] = part
            figures.append(figure("P@5", part, group, f"P@5 {group}"))
    cutoffs = [1, 2, 3, 5, 10, 20, 50, 100]
    recall = {f"{start} queries": [skill * k / (k + 5 + n) for k in cutoffs] for n, start in enumerate(LANGUAGES)}
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(1000, 2)).round(4).tolist()
    return SuiteResult(
        "crosslingual",
        target,
        "nDCG@10",
        figures,
        kept,
        [
            Plot("lines", "Recall over the cutoff", x=cutoffs, x_label="k", y_label="recall@k", series=recall),
            Plot(
                "scatter",
                "Titles in two dimensions (PCA)",
                points=points,
                labels=[f"topic {n % 20}" for n in range(1000)],
                marks=[LANGUAGES[n % 4] for n in range(1000)],
            ),
        ],
        ["Relevant are all titles of the query's topic."],
    )


def pairs(target: str, skill: float, seed: int) -> SuiteResult:
    whole = samples(skill, 300, seed, "p")
    figures = [figure("average precision", whole, name="ap"), Figure("accuracy", skill - 0.05, n=300)]
    figures += [
        Figure(metric, skill - n / 50, skill - n / 50 - 0.1, skill - n / 50 + 0.1, kind, 30 + n)
        for metric in ("accuracy", "AUC")
        for n, kind in enumerate(("paraphrase", "translation", "negation", "role", "number", "format"))
    ]
    rng = np.random.default_rng(seed)
    series = {"similar": rng.beta(8, 3, 150).tolist(), "dissimilar": rng.beta(4, 5, 150).tolist()}
    texts = [f"退货政策第{n}条：商品签收后七天内可以无理由退货" for n in range(10)]
    heat = (rng.random((10, 10)) * skill).tolist()
    return SuiteResult(
        "pairs",
        target,
        "average precision",
        figures,
        {"ap": whole},
        [
            Plot("histogram", "Similarity of pairs", series=series, x_label="cosine", y_label="pairs"),
            Plot("heatmap", "Hard pairs, each with each", rows=texts, columns=texts, values=heat),
        ],
    )


def clustering(target: str, skill: float, seed: int) -> SuiteResult:
    causes = ["合同纠纷", "劳动争议", "侵权责任", "婚姻家庭", "行政处罚"]
    confusion = [[48.0 if a == b else float((a * 3 + b + seed) % 6) for b in range(5)] for a in range(5)]
    points = np.random.default_rng(seed).normal(size=(270, 2)).round(4).tolist()
    labels = [causes[n % 5] for n in range(270)]
    return SuiteResult(
        "clustering",
        target,
        "V-measure",
        [Figure("V-measure", skill - 0.1, skill - 0.14, skill - 0.06, n=270), Figure("stability", 0.91, n=10)],
        plots=[
            Plot(
                "heatmap",
                "Causes and clusters",
                rows=causes,
                columns=[f"cluster {n}" for n in range(5)],
                values=confusion,
            ),
            Plot("scatter", "Cases in two dimensions (PCA)", points=points, labels=labels),
        ],
    )


def compression(target: str, skill: float) -> SuiteResult:
    dims = [32, 64, 128, 256, 512, 1024]
    figures = [Figure("recall@10 kept", skill, skill - 0.03, skill + 0.02, n=160)]
    series = {}
    for number, kind in enumerate(("float32", "int8", "binary", "binary + rescoring")):
        series[kind] = [1 - (0.2 + number / 10) / (1 + d / 64) for d in dims]
        for d, kept in zip(dims, series[kind], strict=True):
            group = f"{d} dims {kind}"
            figures += [Figure("recall@10 kept", kept, group=group, n=160)]
            figures += [Figure("size", d * [4, 1, 0.125, 1.125][number], group=group, unit="bytes")]
    line = Plot("lines", "Recall kept", x=[float(d) for d in dims], series=series, x_label="dimensions", y_label="kept")
    return SuiteResult("compression", target, "recall@10 kept", figures, plots=[line])


def compared(results: list[SuiteResult], names: tuple[str, ...]) -> list[Comparison]:
    """Every pair of targets on every figure with samples; different by more than 0.1 is significant."""
    found = []
    for one in results:
        for other in results:
            if one.suite != other.suite or names.index(one.target) >= names.index(other.target):
                continue
            found += paired(one, other, 0)
    return found


def paired(a: SuiteResult, b: SuiteResult, seed: int) -> list[Comparison]:
    """As the real test, for reports: the mean difference, with a p that depends on nothing else."""
    found = []
    for one in a.figures:
        if one.samples in a.samples and one.samples in b.samples:
            ours, theirs = a.samples[one.samples], b.samples[one.samples]
            assert ours.ids == theirs.ids
            gap = float(np.mean(ours.values) - np.mean(theirs.values))
            p = 0.0004 if abs(gap) > 0.1 else 0.31
            place = (a.suite, one.metric, one.group, a.target, b.target)
            found.append(Comparison(*place, gap, gap - 0.02, gap + 0.02, p, len(ours.ids), p < 0.05))
    return found


def with_failure(whole: Run, target: str, suite: str, why: str) -> Run:
    """The same, but that this one wasn't measured."""
    return msgspec.structs.replace(
        whole,
        results=[r for r in whole.results if (r.target, r.suite) != (target, suite)],
        comparisons=[c for c in whole.comparisons if c.suite != suite or target not in (c.a, c.b)],
        failures={f"{target}/{suite}": why},
    )
