"""A cluster under load while its parts are killed and paused: nothing may be answered wrongly, nothing may hang, little may fail.

python -m loadtest.chaos --minutes 10 --seed 1 --out loadtest/results/chaos.json

A Ray cluster of three nodes on this machine, HAProxy on each, serves the demo checkpoint. Real OpenAI clients at every node's port,
some without retries, some with the client's own, some that retry for 10 s there or at any node, compare every reply with the engine's
vectors. A seeded schedule kills Embedders, Gateways, HAProxy, the Serve controller and a whole worker node, and pauses Embedders;
after each fault it waits until everything is there again. Then the same is asked of an application that sends nothing twice, which
must fail. The exit code is 1 if a promise was broken, if that application kept them, or if a process was left behind.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from loadtest.chaos_environment import free_ports, node_environment


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Faults under load, every reply checked.")
    parser.add_argument("--minutes", type=float, default=10.0, help="at least one fault of each kind, however short")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="nodes beside the head")
    parser.add_argument("--embedders", type=int, default=3, help="replicas, at most two a worker")
    parser.add_argument(
        "--pause", type=float, default=0.1, help="seconds at most between two requests of a client (of twelve)"
    )
    parser.add_argument(
        "--no-prove", dest="prove", action="store_false", help="leave out the application that must fail"
    )
    parser.add_argument(
        "--no-clock", dest="clock", action="store_false", help="report how soon ports are back, but don't fail by it"
    )
    parser.add_argument("--out", type=Path, help="write the whole report as JSON")
    options = parser.parse_args()
    out = options.__dict__.pop("out")

    # Ray reads its environment when it is imported.
    head = free_ports()
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        del os.environ[name]
    os.environ.update(node_environment(head))
    from loadtest.chaos_report import tables
    from loadtest.chaos_run import chaos
    from loadtest.report import print_head, write_json

    report = chaos(options, head)
    print()
    print_head(report)
    print(f"\n{tables(report)}\n")
    write_json(report, out)
    failed = verdict(report, clock=options.clock, prove=options.prove)
    print("\n".join(failed) or "Every promise was kept.")
    sys.exit(1 if failed else 0)


def verdict(report: dict[str, Any], *, clock: bool = True, prove: bool = True) -> list[str]:
    """Why the run failed; empty if it didn't."""
    failed: list[str] = report["broken"] + (report["late"] if clock else [])
    if prove and not report["without_retries"]["broken"]:
        failed.append("Embedders were killed without retries in the dispatcher, and nobody noticed")
    if report["left_behind"]:
        failed.append(f"left behind: {report['left_behind']}")
    return failed


if __name__ == "__main__":
    main()
