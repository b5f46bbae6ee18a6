"""Locust against any service with OpenAI's (or Cohere's) embeddings API, with the workloads of `embedserve bench`.

    locust -f loadtest/locustfile.py --host http://localhost:8000                        # web UI on :8089
    locust -f loadtest/locustfile.py --host http://localhost:8000 --headless -u 32 -r 32 -t 60s --workload mix --shape step
    locust -f loadtest/locustfile.py --host http://localhost:8000 --headless -u 4 -r 4 -t 60s --rate 200

Every user has one request under way at all times (closed loop). With `--rate` users are sources instead: together, when all are
there, they send so many requests a second at random moments whatever becomes of the answers, and times count from when a request was
due (open loop). At the end exact percentiles are printed; Locust's own are rounded. The key is read from the variable that `--key-env`
names.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from typing import Any

import gevent
import orjson
from gevent.pool import Group
from locust import FastHttpUser, LoadTestShape, constant, events, task

from loadtest.locust_exact import Exact
from loadtest.locust_shapes import SHAPES, users_at
from serve_app.bench.address import Address
from serve_app.bench.dialects import DIALECTS, ReplyError
from serve_app.bench.workloads import WORKLOADS

CHECK_EVERY = 50
STOP_SECONDS = 10.0
WORKERS = 1000
EXACT = Exact()
_turns = itertools.count()


@events.init_command_line_parser.add_listener
def options(parser: Any) -> None:
    """Shown by `--help` and in the web UI."""
    parser.add_argument("--workload", choices=list(WORKLOADS), default="mix", help="what requests carry")
    parser.add_argument("--shape", choices=list(SHAPES), default="steady", help="how the number of users runs")
    parser.add_argument(
        "--rate", type=float, default=0.0, help="open loop: requests a second of all users together; 0: closed"
    )
    parser.add_argument("--model", default="", help="model id; unset: the first that GET /v1/models lists")
    parser.add_argument("--dialect", choices=list(DIALECTS), default="openai", help="whose API")
    parser.add_argument("--seed", type=int, default=0, help="of texts and moments")
    parser.add_argument(
        "--key-env", default="", help="environment variable that holds the API key", include_in_web_ui=False
    )
    parser.add_argument("--exact-json", default="", help="file for exact percentiles", include_in_web_ui=False)


@events.init.add_listener
def attach(environment: Any, **_: object) -> None:
    """Collect exact times, in every process, and let requests under way end when a run does: the server has counted them too."""
    EXACT.attach(environment.events)
    EXACT.connect(environment.runner)
    environment.stop_timeout = environment.stop_timeout or STOP_SECONDS


@events.quitting.add_listener
def finish(environment: Any, **_: object) -> None:
    """Of one process, or of the master and all its workers."""
    if not hasattr(environment.runner, "master_host"):  # a worker's are with the master
        EXACT.finish(environment.parsed_options.exact_json)


class Shape(LoadTestShape):
    """`--shape`, scaled to the run's own users, spawn rate and run time."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Users and spawn rate now."""
        assert self.runner is not None
        chosen = self.runner.environment.parsed_options
        users = users_at(chosen.shape, self.get_run_time(), chosen.run_time, chosen.num_users or 1)
        return None if users is None else (users, chosen.spawn_rate or 1.0)


class Embeddings(FastHttpUser):
    """A caller, or with `--rate` a source of requests."""

    wait_time = constant(0)
    insecure = False
    concurrency = 1000  # connections of one user: in open loop it may have many requests under way

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.chosen = environment.parsed_options
        self.dialect = DIALECTS[self.chosen.dialect]
        address = Address.of(self.host or "")
        self.base = f"{'https' if address.tls else 'http'}://{address.authority}{address.path}"
        key = os.environ[self.chosen.key_env].strip() if self.chosen.key_env else ""
        self.headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        self.under_way = Group()
        self.due = 0.0

    def on_start(self) -> None:
        """Find the model out, and begin to count the moments."""
        self.model = self.chosen.model or self._first_model()
        # Each user draws moments of its own; a sum of Poisson processes is one.
        self.draw = random.Random(f"{self.chosen.seed} {self._number()}")
        self.due = time.perf_counter()

    def on_stop(self) -> None:
        """Wait for what is under way."""
        self.under_way.join(timeout=self.network_timeout)

    def _first_model(self) -> str:
        answer = self.client.client.urlopen(
            f"{self.base}/v1/models", headers=self.headers
        )  # not part of the statistics
        return str(orjson.loads(answer.content)["data"][0]["id"])

    def _number(self) -> int:
        # Workers count in steps, each from its own start: no two send the same text.
        return next(_turns) * WORKERS + getattr(self.environment.runner, "worker_index", 0) % WORKERS

    @task
    def embed(self) -> None:
        """One request, at once or when it is due."""
        if not self.chosen.rate:
            self._ask(None)
            return
        self.due += self.draw.expovariate(self.chosen.rate / max(1, self.chosen.num_users or 1))
        gevent.sleep(max(0.0, self.due - time.perf_counter()))
        self.under_way.spawn(self._ask, self.due)

    def _ask(self, due: float | None) -> None:
        number = self._number()
        content = WORKLOADS[self.chosen.workload].content(number, self.chosen.seed)
        left = len(content.texts)
        for body in self.dialect.bodies(self.model, content):
            inputs = min(left, self.dialect.most_inputs)
            left -= inputs
            self._post(body, inputs, due, check=number // WORKERS % CHECK_EVERY == 0)

    def _post(self, body: bytes, inputs: int, due: float | None, check: bool) -> None:
        path, context = self.dialect.path, {"tokens": 0}
        with self.client.post(
            self.base + path,
            data=body,
            headers=self.headers,
            name=f"{path} {self.chosen.workload}",
            catch_response=True,
            context=context,
        ) as answer:
            if due is not None:
                answer.request_meta["response_time"] = 1e3 * (time.perf_counter() - due)
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}")
                return
            answer.request_meta["context"]["tokens"] = self.dialect.tokens(answer.content)
            if check:
                try:
                    self.dialect.vectors(answer.content, inputs)
                except ReplyError as error:
                    answer.failure(f"wrong reply: {error}")
