"""Bad requests by the ten thousands to a service that this starts itself: nothing may be worse than a refusal.

python -m loadtest.fuzz --inputs 50000 --seed 1 --out loadtest/results/fuzz.json

The demo checkpoint is served by two replicas and two gateways behind HAProxy, once without API keys and once with, and each gets
half of `--inputs` refusals in all dialects: broken after the service's own OpenAPI document, byte by byte, and in their headers
(`fuzz_inputs`). It fails if there is a 5xx, a hang, a connection cut, an error in another form than the dialect's, one that quotes a
text or tells of the inside, or if a process of the service died; or if a good request gets no vectors afterwards.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from loadtest.fuzz_client import Heard, send_bad
from loadtest.fuzz_inputs import Generator
from loadtest.http_client import Address, Connection
from loadtest.report import describe_service_run, percentile, print_head, table, write_json
from loadtest.running import Running, embedserve
from serve_app.access.key import hashed, new_secret
from serve_app.types import DEMO_MODEL_ID

KEPT = ("embedder", "gateway", "haproxy")
"""What may not die."""

_FLEET = ("--replicas", "2", "--gateways", "2", "--set", "num_cpus=0.5")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=50_000, help="refusals in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--out", type=Path, help="write the report as JSON")
    options = parser.parse_args()
    report = describe_service_run()
    report |= {"seed": options.seed, "connections": options.connections, "runs": {}}
    half = -(-options.inputs // 2)
    for number, name in enumerate(("open", "keyed")):
        seed = options.seed * 2 + number
        report["runs"][name] = fuzzed(half, seed, options.connections, keyed=name == "keyed")
    print_head(report)
    print(tables(report["runs"]))
    write_json(report, options.out)
    failed = [f"{name}: {why}" for name, run in report["runs"].items() for why in verdict(run)]
    print("\n".join(failed) or "Nothing was worse than a refusal.")
    sys.exit(1 if failed else 0)


def fuzzed(refusals: int, seed: int, connections: int, *, keyed: bool) -> dict[str, Any]:
    """One service's share."""
    with tempfile.TemporaryDirectory() as folder:
        secret = new_secret() if keyed else None
        arguments = [*_FLEET]
        if secret is not None:
            keys = Path(folder) / "keys.yaml"
            keys.write_text(f"keys: [{{name: fuzz, hash: '{hashed(secret)}'}}]\n")
            arguments += ["--set", f"auth.keys_file={keys}"]
        with embedserve(Path(folder) / "up.log", *arguments) as service:
            return _run(service, refusals, seed, connections, secret)


def _run(service: Running, refusals: int, seed: int, connections: int, secret: str | None) -> dict[str, Any]:
    address = Address.of(service.url)
    headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
    with Connection(address) as connection:
        document = json.loads(connection.exchange(address.frame_get("/openapi.json", headers)).body)
    before = _processes(service)
    started = time.monotonic()
    raw = None if secret is None else secret.encode()
    share = -(-refusals // connections)
    heard = Heard()
    with ThreadPoolExecutor(connections) as pool:
        generators = [Generator(document, DEMO_MODEL_ID, seed * 1000 + number) for number in range(connections)]
        for one in pool.map(lambda inputs: send_bad(address, inputs, share, raw), generators):
            heard.add(one)
    seconds = time.monotonic() - started
    good = address.frame(json.dumps({"model": DEMO_MODEL_ID, "input": "still there"}).encode(), headers=headers)
    with Connection(address) as connection:
        after = connection.exchange(good).status
    gone = {name: sorted(before[name] - _processes(service)[name]) for name in KEPT}
    return {
        "sent": heard.statuses.total() + heard.hangs + heard.cut,
        "refused": len(heard.seconds),
        "statuses": {str(status): heard.statuses[status] for status in sorted(heard.statuses)},
        "server_errors": sum(count for status, count in heard.statuses.items() if status >= 500),
        "hangs": heard.hangs,
        "cut": heard.cut,
        "wrong": heard.wrong,
        "complaints": heard.complaints,
        "deaths": {name: len(pids) for name, pids in gone.items()},
        "good_afterwards": after,
        "seconds": seconds,
        "refusal_ms": {
            name: 1e3 * percentile(heard.seconds, at) for name, at in (("p50", 50), ("p99", 99), ("max", 100))
        },
    }


def _processes(service: Running) -> dict[str, set[int]]:
    groups = service.groups()
    return {name: {process.pid for process in groups.get(name, [])} for name in KEPT}


def tables(runs: dict[str, dict[str, Any]]) -> str:
    """The figures."""
    columns = ("keys", "sent", "refused", "5xx", "hangs", "cut", "deaths", "p50 ms", "p99 ms", "max ms")
    rows = []
    for name, run in runs.items():
        counts = [f"{run[key]:,}" for key in ("sent", "refused", "server_errors", "hangs", "cut")]
        rows.append((name, *counts, sum(run["deaths"].values()), *(f"{ms:.1f}" for ms in run["refusal_ms"].values())))
    return table(columns, rows)


def verdict(run: dict[str, Any]) -> list[str]:
    """Why a run failed; empty if it didn't."""
    failed = [f"{run['wrong']} replies were wrong, like {run['complaints'][0]}"] if run["wrong"] else []
    failed += [f"{count} {key.replace('_', ' ')}" for key in ("server_errors", "hangs", "cut") if (count := run[key])]
    failed += [f"{count} of {name} died" for name, count in run["deaths"].items() if count]
    if run["good_afterwards"] != 200:
        failed.append(f"a good request got {run['good_afterwards']} afterwards")
    return failed


if __name__ == "__main__":
    main()
