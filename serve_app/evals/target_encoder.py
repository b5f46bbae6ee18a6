"""A target as suites see it: checks, cache, batches and threads around what stands behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress

import numpy as np

from serve_app.evals.cache import Cache, Kept, key_of, same
from serve_app.evals.encoder import Role, Vectors
from serve_app.evals.result import TargetUse
from serve_app.evals.target import Target, TargetError
from serve_app.evals.target_backend import Answer, Backend, Known
from serve_app.evals.target_meter import Meter, shares

PROBE = "The capital of China is Beijing."
"""Asked of every target when a run starts: shows the dimensions, and whether it is still the model whose vectors are kept."""

Progress = Callable[[int, int], None]
"""Told how many texts of the current list have vectors, and how many there are."""


class TargetEncoder:
    """An `Encoder`. Use it from one thread, after `open`."""

    def __init__(
        self,
        target: Target,
        backend: Backend,
        cache: Cache,
        concurrency: int = 4,
        progress: Progress = lambda done, of: None,
    ) -> None:
        self.name = target.name
        self._target = target
        self._backend = backend
        self._cache = cache
        self._threads = min(concurrency, backend.threads or concurrency)
        self._progress = progress
        self._meter = Meter()
        self._known = Known(target.model)
        self._model = b""
        self._probe: Vectors | None = None
        self._warning = ""
        self._dimensions = 0

    def open(self) -> None:
        """Learn the model, and ask for one vector. Raises `TargetError`."""
        try:
            self._known = self._backend.open()
            if self._backend.kept:
                self._probe = self._probed()
                target = self._target
                identity: dict[str, object] = {
                    "kind": target.kind,
                    "url": target.url,
                    "model": self._known.model,
                    "told": self._known.told,
                }
                self._model = self._cache.model(identity, self._probe)
        except TargetError as error:
            raise TargetError(f"{self.name}: {error}", error.gone) from error

    def changed(self) -> str:
        """After the last text: what to warn of if the target isn't any more what it was when it was opened; empty if all is well.
        Costs one request, and none where all vectors were kept."""
        if self._probe is not None and self._meter.latencies:
            try:
                now = self._probed()
            except TargetError as error:
                self._warning = f"Whether it still is the same model couldn't be asked: {error}."
            else:
                if not same(self._probe, now):
                    self._warning = (
                        "The model changed while it was measured: its figures are of two models. Measure again."
                    )
        return f"{self.name}: {self._warning}" if self._warning else ""

    def close(self) -> None:
        self._backend.close()

    def prepare(self, texts: Sequence[str]) -> None:
        self._backend.prepare(texts)

    def encode(self, texts: Sequence[str], role: Role, instruction: str | None = None) -> Vectors:
        """See `Encoder.encode`."""
        if not texts:
            raise ValueError("no texts to encode")
        try:
            if self._backend.kept:
                return self._encode(texts, role, instruction)
            self._meter.texts += len(texts)
            return self._checked(self._backend.embed(texts, role, instruction), texts)
        except TargetError as error:
            raise TargetError(f"{self.name}: {error}", error.gone) from error

    def use(self, usd_per_million_tokens: float | None) -> TargetUse:
        """What the target was, and what asking it has taken so far."""
        meter, price = self._meter, usd_per_million_tokens
        notes = [*self._known.notes, *filter(None, [self._warning])]
        if meter.tokens is None and self._backend.kept and meter.texts:
            notes.append("It tells no token counts, so there are no costs.")
        return TargetUse(
            name=self.name,
            model=self._known.model,
            dimensions=self._dimensions,
            described=self._target.described() | self._known.told,
            texts=meter.texts,
            cached=meter.cached,
            tokens=meter.tokens or 0,
            requests=len(meter.latencies),
            seconds=meter.seconds,
            latency_p50=meter.percentile(0.5),
            latency_p95=meter.percentile(0.95),
            usd=None if price is None or meter.tokens is None else meter.tokens * price / 1e6,
            usd_per_million_tokens=price,
            notes=notes,
        )

    def _encode(self, texts: Sequence[str], role: Role, instruction: str | None) -> Vectors:
        before = self._backend.before(role, instruction)
        keys = [key_of(self._model, before, text) for text in texts]
        found = self._cache.get(list(dict.fromkeys(keys)))
        self._meter.texts += len(texts)
        self._meter.cached += sum(key in found for key in keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        if missing:
            found |= self._asked(missing, role, instruction, len(found))
        for key, kept in found.items():
            self._meter.charged(key, kept.tokens)
        return np.stack([found[key].vector for key in keys])

    def _asked(self, missing: dict[bytes, str], role: Role, instruction: str | None, done: int) -> dict[bytes, Kept]:
        """Ask for the vectors of `missing`, and keep each request's as soon as it is answered.

        When a request fails or the user stops the run, no further one is sent, and what is under way is waited for and kept.
        """
        found: dict[bytes, Kept] = {}
        total = done + len(missing)
        started = time.perf_counter()

        def keep(future: Future[tuple[float, Answer]], keys: list[bytes]) -> None:
            seconds, answer = future.result()
            asked = [missing[key] for key in keys]
            vectors = self._checked(answer, asked)
            self._meter.latencies.append(seconds)
            kept = map(Kept, vectors, shares(asked, answer.tokens))
            rows = dict(zip(keys, kept, strict=True))
            self._cache.put(rows.items())
            found.update(rows)
            self._progress(done + len(found), total)

        self._progress(done, total)
        with ThreadPoolExecutor(self._threads, thread_name_prefix="eval") as pool:
            ordered, size = list(missing), self._backend.batch
            batches = [ordered[start : start + size] for start in range(0, len(ordered), size)]
            waiting: dict[Future[tuple[float, Answer]], list[bytes]] = {}
            try:
                for keys in batches:
                    texts = [missing[key] for key in keys]
                    waiting[pool.submit(self._timed, texts, role, instruction)] = keys
                for future in as_completed(list(waiting)):
                    # Struck off afterwards: Ctrl-C may come between the two.
                    keep(future, waiting[future])
                    del waiting[future]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                for future, keys in waiting.items():
                    if not future.cancelled():
                        with suppress(TargetError):
                            keep(future, keys)
                raise
            finally:
                self._meter.seconds += time.perf_counter() - started
        return found

    def _probed(self) -> Vectors:
        vectors = self._checked(self._backend.embed([PROBE], Role.DOCUMENT, None), [PROBE])
        return vectors.ravel()

    def _timed(self, texts: list[str], role: Role, instruction: str | None) -> tuple[float, Answer]:
        started = time.perf_counter()
        answer = self._backend.embed(texts, role, instruction)
        return time.perf_counter() - started, answer

    def _checked(self, answer: Answer, texts: Sequence[str]) -> Vectors:
        """The answer's vectors with length 1. Raises `TargetError`."""
        vectors = np.asarray(answer.vectors, np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts) or vectors.shape[1] == 0:
            raise TargetError(f"asked for {len(texts)} vectors, it gave an array of shape {list(vectors.shape)}")
        self._dimensions = self._dimensions or vectors.shape[1]
        if vectors.shape[1] != self._dimensions and self._backend.kept:
            raise TargetError(f"its vectors had {self._dimensions} dimensions at first, and now {vectors.shape[1]}")
        self._dimensions = vectors.shape[1]
        if not np.isfinite(vectors).all():
            raise TargetError("a vector has numbers in it that aren't finite; nothing can be measured with it")
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        if not norms.all():
            raise TargetError("a vector is zero, so it points nowhere; nothing can be measured with it")
        return np.asarray(vectors / norms, np.float32)
