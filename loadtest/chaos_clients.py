"""Clients for a chaos run: real OpenAI clients, each kind of them at every node's port, each checking every reply."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle
from typing import Literal

import numpy as np
import openai

from loadtest.chaos_node import Node
from loadtest.soak_traffic import References
from loadtest.workload import MEDIUM, SHORT
from serve_app.engine.engine import Engine

REQUEST_SECONDS = 30.0  # the clients' timeout: an attempt that takes longer has hung
PATIENCE_SECONDS = 10.0
RETRY_SECONDS = 0.1
LARGEST_DIFFERENCE = 1e-5  # float32, whoever shared the batch
MOST_INPUTS = 96


class Client(StrEnum):
    """How a client meets an error."""

    NONE = "no retries"
    DEFAULT = "client's default retries"  # two
    PATIENT = "10 s"  # of retries at the same port
    ROAMING = "10 s, any node"  # each retry at the next node's port, as one that knows several addresses does


class Outcome(StrEnum):
    OK = "ok"
    WRONG = "wrong"
    ERROR = "error"
    HANG = "hang"


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request, or one attempt of it, at one node's port, for a roaming client its first; in monotonic seconds."""

    client: Client
    node: str
    begin: float
    end: float
    outcome: Outcome
    detail: str = ""


class Traffic:
    """A client of each of `kinds` at every node, on an event loop in a thread of its own, with up to `pause_seconds` between two
    requests. `requests` and `attempts` grow while they run."""

    def __init__(
        self,
        nodes: Sequence[Node],
        model: str,
        engine: Engine,
        seed: int,
        pause_seconds: float,
        kinds: Sequence[Client],
    ) -> None:
        self.requests: list[Exchange] = []
        self.attempts: list[Exchange] = []
        self._model = model
        self._pause_seconds = pause_seconds
        self._short = References.of(SHORT, 400, engine)
        self._medium = References.of(MEDIUM, 200, engine)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="clients")
        urls = [f"{node.url}/v1" for node in nodes]
        self._clients = [
            (kind, node.name, urls[i:] + urls[:i], random.Random(f"{seed} {number} {node.name}"))
            for i, node in enumerate(nodes)
            for number, kind in enumerate(kinds)
        ]

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let the requests under way end. Raises `TimeoutError` if some don't."""
        self._stop.set()
        self._thread.join(3 * REQUEST_SECONDS + PATIENCE_SECONDS)
        if self._thread.is_alive():
            raise TimeoutError("some clients never got an answer")

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for each in self._clients:
                group.create_task(self._client(*each))

    async def _client(self, kind: Client, node: str, urls: list[str], draw: random.Random) -> None:
        retries = openai.DEFAULT_MAX_RETRIES if kind is Client.DEFAULT else 0
        async with AsyncExitStack() as stack:
            apis = [
                await stack.enter_async_context(
                    openai.AsyncOpenAI(base_url=url, api_key="EMPTY", max_retries=retries, timeout=REQUEST_SECONDS)
                )
                for url in (urls if kind is Client.ROAMING else urls[:1])
            ]
            while not self._stop.is_set():
                await self._request(kind, node, apis, draw)
                await asyncio.sleep(draw.uniform(0, self._pause_seconds))

    async def _request(self, kind: Client, node: str, apis: list[openai.AsyncOpenAI], draw: random.Random) -> None:
        known = self._short if draw.random() < 0.7 else self._medium
        count = draw.choice([1, 1, 1, draw.randint(2, 8), draw.randint(9, MOST_INPUTS)])
        rows = [draw.randrange(len(known.texts)) for _ in range(count)]
        # Left out, the client asks for base64 and decodes it itself.
        encoding: Literal["float"] | openai.Omit = draw.choice(["float", openai.omit])
        begin = time.monotonic()
        for api in cycle(apis):
            started = time.monotonic()
            outcome, detail = await self._ask(api, known, rows, encoding)
            now = time.monotonic()
            if now - started > (api.max_retries + 1) * REQUEST_SECONDS:
                outcome = Outcome.HANG
            if api is apis[0] and kind is not Client.DEFAULT:
                self.attempts.append(Exchange(kind, node, started, now, outcome, detail))
            patient = kind in (Client.PATIENT, Client.ROAMING) and now - begin < PATIENCE_SECONDS
            if outcome is not Outcome.ERROR or not patient:
                break
            await asyncio.sleep(RETRY_SECONDS)
        self.requests.append(Exchange(kind, node, begin, now, outcome, detail))

    async def _ask(
        self, api: openai.AsyncOpenAI, known: References, rows: list[int], encoding: Literal["float"] | openai.Omit
    ) -> tuple[Outcome, str]:
        texts = [known.texts[row] for row in rows]
        try:
            reply = await api.embeddings.create(model=self._model, input=texts, encoding_format=encoding)
        except openai.APITimeoutError as error:
            return Outcome.HANG, str(error)
        except openai.APIStatusError as error:
            return Outcome.ERROR, f"{error.status_code} {error.response.text[:200]!r}"
        except openai.APIConnectionError as error:
            return Outcome.ERROR, f"{type(error).__name__} ({type(error.__cause__).__name__})"
        return check(known, rows, [item.embedding for item in reply.data], reply.usage.prompt_tokens)


def check(known: References, rows: list[int], vectors: list[list[float]], tokens: int) -> tuple[Outcome, str]:
    """Whether these are the vectors and the token count of these texts."""
    wanted = known.vectors[rows]
    got = np.asarray(vectors, np.float32) if len({len(vector) for vector in vectors}) == 1 else np.empty(0)
    if got.shape != wanted.shape:
        return Outcome.WRONG, f"{len(rows)} inputs: vectors of shape {got.shape}"
    difference = float(np.abs(got - wanted).max())
    if not difference <= LARGEST_DIFFERENCE:
        return Outcome.WRONG, f"{len(rows)} inputs: vectors differ from the engine's by up to {difference:.2g}"
    if tokens != sum(known.tokens[row] for row in rows):
        return Outcome.WRONG, f"{len(rows)} inputs: {tokens} tokens counted"
    return Outcome.OK, ""
