"""The reports of `loadtest.bench_engine` and `loadtest.profile_engine` as Markdown."""

from __future__ import annotations

from typing import Any

_HEAD = (
    "| inputs x tokens | contestant | tokens/s | inputs/s | first over it | of the ceiling | of the data sheet | time over floor "
    "| lowest cosine |\n|---|---|---|---|---|---|---|---|---|"
)


def table(report: dict[str, Any]) -> str:
    """Ceilings, cases and latency; every figure the median of the rounds, rates with the lowest and highest."""
    hardware, ceilings = report["hardware"], report["ceilings"]
    lines = [
        f"`{report['command']}`, revision `{report['git'][:9]}`, {hardware['cpu']}, {hardware['threads']} threads, "
        f"device {hardware['device']}.",
        f"Parity with transformers in float32: largest difference {report['parity']['largest_difference']:.1e}.",
        "",
        "| ceiling | best | at the model's shapes, by rows |",
        "|---|---|---|",
    ]
    for dtype, rates in ceilings["flops_per_second"].items():
        if "unavailable" in rates:
            lines.append(f"| {dtype} | {rates['unavailable']} | |")
            continue
        model = ", ".join(f"{rows}: {rate / 1e12:.3g}" for rows, rate in rates["model"].items())
        lines.append(f"| {dtype}, TFLOP/s | {rates['best'] / 1e12:.3g} | {model} |")
    lines += [f"| copy, GB/s | {ceilings['copy_bytes_per_second'] / 1e9:.3g} | |", "", _HEAD]
    for case in report["cases"]:
        shown = f"{case['inputs']} x {case['name']}"
        lines += [_row(shown, row) for row in case["results"]]
    lines += ["", "| one text of 512 tokens | ms |", "|---|---|"]
    lines += [f"| {name} | {_range(times, 1e3)} |" for name, times in report["latency_512"].items()]
    lines += [
        "",
        f"Peak memory: {', '.join(f'{name} {peak / 2**20:,.0f} MiB' for name, peak in report['memory'].items())}.",
    ]
    lines += [f"Left out: {case}, {why}." for case, why in report["left_out"].items()]
    failed = [
        (report.get("failed", {}), ""),
        *((case.get("failed", {}), f", {case['name']}") for case in report["cases"]),
    ]
    lines += [f"Failed: {name}{where}: {why}" for of, where in failed for name, why in of.items()]
    return "\n".join(lines)


def shares(profiles: dict[str, dict[str, float]]) -> str:
    """Shares of the time, as Markdown; the largest of the first column first."""
    first = next(iter(profiles.values()))
    lines = [f"| part | {' | '.join(profiles)} |", f"|---|{'---|' * len(profiles)}"]
    for part in sorted(first, key=lambda part: -first[part]):
        shares = [f"{parts[part] / sum(parts.values()):.1%}" for parts in profiles.values()]
        lines.append(f"| {part} | {' | '.join(shares)} |")
    lines.append(f"| seconds | {' | '.join(f'{sum(parts.values()):.3g}' for parts in profiles.values())} |")
    return "\n".join(lines)


def _row(case: str, row: dict[str, Any]) -> str:
    cosine = row["lowest_cosine"]
    cells = [
        case,
        row["name"],
        _range(row["tokens_per_second"]),
        _number(row["inputs_per_second"]["median"]),
        _range(row["first_over_it"]),
        f"{row['mfu_of_ceiling']['median']:.0%}",
        f"{row['mfu_of_data_sheet']['median']:.0%}" if row["mfu_of_data_sheet"] else "",
        f"{row['over_floor']['median']:.2f}",
        f"{cosine:.5f}" if cosine is not None else "",
    ]
    return f"| {' | '.join(cells)} |"


def _range(spread: dict[str, float], scale: float = 1.0) -> str:
    median, lowest, highest = (_number(spread[key] * scale) for key in ("median", "lowest", "highest"))
    return f"{median} ({lowest}–{highest})"


def _number(value: float) -> str:
    """Three digits, all of those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
