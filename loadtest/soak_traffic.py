"""Mixed traffic for a soak: clients of several kinds, each checking every reply it gets."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import orjson

from loadtest.http_client import Address, Connection
from loadtest.replies import WrongReplyError, vectors_of
from loadtest.workload import MEDIUM, SHORT, Workload, body, tokenizer
from serve_app.engine.engine import Engine
from serve_app.types import Vectors

LARGE_INPUTS = 200
# Clients of each kind and the longest pause (seconds) between two requests of one: enough traffic to keep the
# service busy, not so much that nothing but large requests gets through.
KINDS = {"short": (4, 0.02), "medium": (2, 0.05), "large": (1, 2.0), "error": (1, 0.1), "disconnect": (1, 2.0)}
# A request that the service was too busy for (429) is tallied apart, and its client waits for up to so long.
REFUSED = "refused"
REFUSED_PAUSE = 2.0
MOST_FAULTS = 20  # enough to look into; more traffic would bring nothing
LARGEST_DIFFERENCE = 1e-4  # float32, whoever shared the batch


@dataclass(frozen=True)
class References:
    """Texts with the engine's vectors of them and their token counts."""

    texts: list[str]
    vectors: Vectors
    tokens: list[int]

    @classmethod
    def of(cls, workload: Workload, count: int, engine: Engine) -> References:
        texts = workload.texts(range(count))
        ids = tokenizer().encode_batch(texts)
        return cls(texts, engine.encode(ids), [len(each) for each in ids])


@dataclass
class Tally:
    """What happened, for all clients together. `faults` are wrong replies, hangs and lost connections."""

    answered: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    faults: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, kind: str, seconds: float) -> None:
        with self.lock:
            self.answered[kind] += 1
            self.slowest[kind] = max(self.slowest[kind], seconds)

    def fault(self, kind: str, error: Exception) -> None:
        what = "hung" if isinstance(error, TimeoutError) else type(error).__name__
        with self.lock:
            self.faults.append(f"{kind}: {what}: {error}")


class Traffic:
    """Clients on threads of this process, from `start` to `stop`, as often as wanted."""

    def __init__(self, url: str, model: str, engine: Engine, patience: float = 60.0) -> None:
        self.tally = Tally()
        self._address = Address.of(url)
        self._model = model
        self._patience = patience
        self._short = References.of(SHORT, 1000, engine)
        self._medium = References.of(MEDIUM, 1000, engine)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._stop.clear()
        self._threads = [
            threading.Thread(target=self._client, args=(kind, seed), name=f"{kind}-{seed}")
            for kind, (count, _) in KINDS.items()
            for seed in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let the requests under way end, and wait for that."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def given_up(self) -> bool:
        """Whether there were so many faults that the clients stopped by themselves."""
        return len(self.tally.faults) >= MOST_FAULTS

    def _client(self, kind: str, seed: int) -> None:
        draw = random.Random(f"{kind}-{seed}")
        turn: Callable[[Connection, random.Random], bool] = getattr(self, f"_{kind}_turn")
        while not self._stop.is_set() and not self.given_up:
            try:
                with Connection(self._address, self._patience) as connection:
                    # A new connection now and then: they are what file descriptors leak through.
                    for _ in range(1 if kind == "disconnect" else 200):
                        begin = time.perf_counter()
                        served = turn(connection, draw)
                        self.tally.count(kind if served else REFUSED, time.perf_counter() - begin)
                        if self._stop.wait(draw.uniform(0.0, KINDS[kind][1] if served else REFUSED_PAUSE)):
                            break
            except Exception as error:  # whatever it is, the client goes on and the soak has failed
                self.tally.fault(kind, error)

    # Each of these is False for a request that the service was too busy for.

    def _short_turn(self, connection: Connection, draw: random.Random) -> bool:
        return self._ask(connection, self._short, [draw.randrange(1000)], draw)

    def _medium_turn(self, connection: Connection, draw: random.Random) -> bool:
        return self._ask(connection, self._medium, [draw.randrange(1000) for _ in range(draw.randint(1, 8))], draw)

    def _large_turn(self, connection: Connection, draw: random.Random) -> bool:
        return self._ask(connection, self._medium, [draw.randrange(1000) for _ in range(LARGE_INPUTS)], draw)

    def _error_turn(self, connection: Connection, draw: random.Random) -> bool:
        wrong, wanted = draw.choice(wrong_bodies(self._model))
        reply = connection.exchange(self._address.frame(wrong))
        try:
            keys = set(orjson.loads(reply.body)["error"])
        except (ValueError, KeyError, TypeError):
            keys = set()
        if reply.status == 429:
            return False
        if reply.status != wanted or keys != {"message", "type", "param", "code"}:
            raise WrongReplyError(f"{wanted} expected for {wrong[:80]!r}, got {reply.status} {reply.body[:200]!r}")
        return True

    def _disconnect_turn(self, connection: Connection, draw: random.Random) -> bool:
        texts = [self._medium.texts[draw.randrange(1000)] for _ in range(LARGE_INPUTS)]
        request = self._address.frame(body(self._model, texts))
        connection.send(request[: draw.choice([len(request), len(request), len(request) // 2])])
        self._stop.wait(draw.uniform(0.0, 0.2))  # the connection is closed after this turn, answered or not
        return True

    def _ask(self, connection: Connection, known: References, rows: list[int], draw: random.Random) -> bool:
        texts = [known.texts[row] for row in rows]
        encoding = draw.choice(["base64", "float"])
        reply = connection.exchange(self._address.frame(body(self._model, texts, encoding)))
        if reply.status == 429:
            return False
        if reply.status != 200:
            raise WrongReplyError(f"status {reply.status}: {reply.body[:200]!r}")
        vectors, tokens = vectors_of(reply.body, len(rows), known.vectors.shape[1])
        difference = float(np.abs(vectors - known.vectors[rows]).max())
        if not difference <= LARGEST_DIFFERENCE:
            raise WrongReplyError(f"{len(rows)} inputs: vectors differ from the engine's by up to {difference:.2g}")
        if tokens != sum(known.tokens[row] for row in rows):
            raise WrongReplyError(f"{len(rows)} inputs: {tokens} tokens counted")
        return True


def wrong_bodies(model: str) -> list[tuple[bytes, int]]:
    """Requests that must be refused, each with its status."""
    return [
        (b'{"model": ', 400),
        (orjson.dumps({"model": "no-such-model", "input": "text"}), 404),
        (orjson.dumps({"model": model, "input": ""}), 400),
        (orjson.dumps({"model": model, "input": []}), 400),
        (orjson.dumps({"model": model, "input": ["text", 1]}), 400),
        (orjson.dumps({"model": model, "input": "text", "dimensions": 100_000}), 400),
        (orjson.dumps({"model": model, "input": "text", "no_such_field": True}), 400),
        (orjson.dumps({"model": model, "input": "a long text " * 9000}), 400),
    ]
