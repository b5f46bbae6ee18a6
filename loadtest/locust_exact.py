"""Exact percentiles of a Locust run, and its token count. Locust's own round: to 10 ms from 100 ms on, to 100 ms from 1 s."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gevent
import orjson

from serve_app.bench.statistics import percentile

HAND_OVER_SECONDS = 30.0


class Exact:
    """Every response time in milliseconds of requests that were answered well, how many weren't, and the tokens billed.

    With workers each hands what it has collected to the master with its regular report, and the rest when the run ends: the master
    asks for it, since Locust itself gives workers half a second for their last report, which busy machines don't keep to.
    """

    def __init__(self) -> None:
        self.milliseconds: list[float] = []
        self.failures = 0
        self.tokens = 0
        self.done = 0

    def attach(self, events: Any) -> None:
        """To a Locust environment's events."""
        events.request.add_listener(self.on_request)
        events.report_to_master.add_listener(self.on_report_to_master)
        events.worker_report.add_listener(self.on_worker_report)
        events.test_start.add_listener(lambda environment, **_: self.clear())
        events.test_stop.add_listener(self.on_test_stop)

    def connect(self, runner: Any) -> None:
        """Listen to the other side, where there is one."""
        if hasattr(runner, "master_host"):

            def hand_over(**_: object) -> None:
                runner.stop()
                runner.send_message("exact_rest", self.taken())

            runner.register_message("exact_end", hand_over, concurrent=True)
        elif hasattr(runner, "clients"):

            def add_rest(msg: Any, **_: object) -> None:
                self.add(msg.data)
                self.done += 1

            runner.register_message("exact_rest", add_rest)

    def on_test_stop(self, environment: Any, **_: object) -> None:
        """The master's: wait for what workers still have."""
        runner = environment.runner
        if not hasattr(runner, "clients"):
            return
        self.done, asked = 0, runner.worker_count
        runner.send_message("exact_end")
        with gevent.Timeout(HAND_OVER_SECONDS, False):
            while self.done < asked:
                gevent.sleep(0.05)

    def clear(self) -> None:
        """Forget all of it: another run begins."""
        self.milliseconds, self.failures, self.tokens = [], 0, 0

    def on_request(
        self, response_time: float, exception: Exception | None, context: dict[str, Any], **_: object
    ) -> None:
        """Locust's, of every request; `context` has the tokens."""
        if exception is None:
            self.milliseconds.append(response_time)
            self.tokens += context.get("tokens", 0)
        else:
            self.failures += 1

    def taken(self) -> dict[str, Any]:
        """What was collected since this was last asked for."""
        found = {"milliseconds": self.milliseconds, "failures": self.failures, "tokens": self.tokens}
        self.clear()
        return found

    def add(self, said: dict[str, Any]) -> None:
        """What another process has taken."""
        self.milliseconds += said["milliseconds"]
        self.failures += said["failures"]
        self.tokens += said["tokens"]

    def on_report_to_master(self, client_id: str, data: dict[str, Any]) -> None:
        """A worker's."""
        data["exact"] = self.taken()

    def on_worker_report(self, client_id: str, data: dict[str, Any]) -> None:
        """The master's."""
        if "exact" in data:
            self.add(data["exact"])

    def figures(self) -> dict[str, float | int | None]:
        """Requests answered well and not, tokens, and percentiles in milliseconds, none of them rounded."""
        found: dict[str, float | int | None] = {
            "answered": len(self.milliseconds),
            "failed": self.failures,
            "tokens": self.tokens,
        }
        for q in (50, 95, 99, 99.9, 100):
            found[f"p{q:g}_ms"] = percentile(self.milliseconds, q) if self.milliseconds else None
        return found

    def finish(self, out: str) -> None:
        """Print them, and write them as JSON if `out` names a file."""
        found = self.figures()
        print("exact:", ", ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items()))
        if out:
            Path(out).write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")
