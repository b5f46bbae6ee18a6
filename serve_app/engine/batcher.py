"""The replica's batcher: inputs of many requests in, token-budget batches through one engine, an answer per
input.

Batching is natural: a batch is formed when the engine is free, of whatever waits at that moment; there is
no timer. `InputQueue` decides what goes first; inputs of the same tenant with the same token ids as one that goes are answered with
it, wherever they wait, and those that come while it is computed too. Everything but `run` happens on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import repeat

from serve_app.engine.batch import Batch, EncodedBatch, Pending
from serve_app.engine.pipeline import Pipeline, attempted
from serve_app.engine.queue import InputQueue, QueuePolicy
from serve_app.engine.run import Cost, Run, RunTokens, all_tokens
from serve_app.engine.running import RunningBatches
from serve_app.engine.submission import Encoded, Input, InputCancelledError, OpenSubmissions, Submission
from serve_app.engine.token_vectors import no_token_vectors, run_both
from serve_app.engine.waiting import WaitingInputs
from serve_app.errors import DeadlineExceededError, EngineDeadError, EngineError
from serve_app.types import Output, Priority, TokenIds

__all__ = ["Batcher", "Encoded", "EncodedBatch", "InputCancelledError"]

logger = logging.getLogger(__name__)


class Batcher:
    """Runs `run` over batches of at most `max_batch_tokens` tokens and `max_batch_inputs` inputs.

    `run` takes a list of int32 token arrays, and their tenants if any has one (see `Run`), blocks, and is called on one dedicated
    thread. An exception from it fails its batch's inputs with `EngineError`; `EngineDeadError`, or anything that is no `Exception`,
    means that the engine is gone. `clock` gives monotonic seconds, the unit of all deadlines. With `share_duplicates` equal inputs of
    a tenant that wait or run are computed once; what one of them gets, vector or error, all get. `depth` batches at most are handed
    over at once. Above 1, `run` may only launch a batch and return what waits for it, which another thread calls: so one is launched
    while another runs, if enough waits to fill it.
    `max_batch_tokens`, `max_batch_inputs`, `share_duplicates` and `queue.policy` may be set at any time. `on_batch` is called with
    every batch that was computed, and the rows of it that failed, before anybody gets an answer from it: it must be quick and must
    not raise. `cost` counts what an input takes of `max_batch_tokens` when it is submitted; everything else counts all of its tokens.
    `run_tokens` takes the place of `run` for inputs that want the vectors of all tokens; those cost all of theirs and share nothing.
    """

    def __init__(
        self,
        run: Run,
        *,
        hidden_size: int,
        max_batch_tokens: int,
        max_batch_inputs: int,
        policy: QueuePolicy | None = None,
        depth: int = 1,
        cost: Cost = all_tokens,
        share_duplicates: bool = False,
        run_tokens: RunTokens = no_token_vectors,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_batch_tokens = max_batch_tokens
        self.max_batch_inputs = max_batch_inputs
        self.share_duplicates = share_duplicates
        self.on_batch: Callable[[Batch, Mapping[int, Exception]], None] = lambda batch, failed: None
        self._waiting = WaitingInputs(policy)
        self._run = run
        self._run_tokens = run_tokens
        self._hidden_size = hidden_size
        self._depth = depth
        self._cost = cost
        self._clock = clock
        self._open = OpenSubmissions()
        self._running = RunningBatches(clock)
        self._start_scheduled = False
        self._closing = False
        self._drained = asyncio.Event()
        self._dead = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = Pipeline(died=partial(self._post, self._bury), overlapping=depth > 1)

    @property
    def queue(self) -> InputQueue[Input]:
        """What waits; to be looked at, and for its `policy`."""
        return self._waiting.queue

    @property
    def healthy(self) -> bool:
        """False once the engine is gone: nothing can be computed any more."""
        if not self._dead and not self._closing and not self._thread.alive:
            self._bury(EngineDeadError("the engine thread is gone"))
        return not self._dead

    @property
    def outstanding_tokens(self) -> int:
        """Tokens waiting and running."""
        return self.queue.tokens + self._running.tokens

    @property
    def running_tokens(self) -> int:
        """Tokens of the batches handed to the engine."""
        return self._running.tokens

    @property
    def computed_tokens(self) -> int:
        """Tokens computed since the start."""
        return self._running.rate.total

    @property
    def busy_seconds(self) -> float:
        """Time that the engine has computed since the start, the batch that runs now included."""
        return self._running.busy_seconds

    @property
    def tokens_per_second(self) -> float:
        """Measured over the engine's busy time, the recent weighing more; 0 before the first batch."""
        return self._running.rate.value

    def submit(
        self,
        token_ids: Sequence[TokenIds],
        *,
        gateway: str = "",
        ids: Iterable[int] = repeat(-1),
        priorities: Iterable[int] = repeat(Priority.INTERACTIVE),
        deadlines: Iterable[float] = repeat(math.inf),
        outputs: Iterable[int] = repeat(Output.POOLED),
        tenants: Iterable[int] = repeat(0),
    ) -> asyncio.Future[Encoded]:
        """Queue inputs; the future resolves when each has its vector or its error. `ids` name them for
        `cancel`.

        The future raises nothing; cancelling it cancels the inputs. Raises `EngineDeadError` if the engine
        is gone or the batcher closed, and ValueError if there are fewer ids, priorities, deadlines, outputs or
        tenants than inputs.
        """
        if self._closing or not self.healthy:
            raise EngineDeadError("the replica is shutting down" if self._closing else "the engine is gone")
        self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Encoded] = self._loop.create_future()
        submission = Submission(len(token_ids), self._hidden_size, gateway, future, self._open.remove)
        now = self._clock()
        submission.inputs = [
            Input(len(tokens), priority, deadline, now, tokens, id_, row, submission, output, tenant)
            for row, (tokens, id_, priority, deadline, output, tenant) in enumerate(
                zip(token_ids, ids, priorities, deadlines, outputs, tenants)  # noqa: B905
            )
        ]
        if len(submission.inputs) != len(token_ids):
            raise ValueError("an id, a priority, a deadline, an output and a tenant for every input")
        self._open.add(submission)
        future.add_done_callback(partial(self._abandoned, submission))
        for item in submission.inputs:
            if self.share_duplicates and not item.output:
                item.share()
            if not self._running.join(item):
                item.cost = item.tokens if item.output else self._cost(item.token_ids, item.tenant)
                self._waiting.add(item)
        if submission.inputs:
            self._schedule_start()
        else:
            submission.resolve()
        return future

    def cancel(self, gateway: str, ids: Iterable[int]) -> None:
        """Drop inputs by the gateway and ids they were submitted with; one that runs is computed and dropped."""
        dropped = set(ids)
        for item in self._open.inputs(gateway):
            if item.id in dropped:
                self._fail(item, InputCancelledError("cancelled"))

    async def close(self, *, drain: bool = True) -> None:
        """Take no more inputs; compute what waits, or fail it with `EngineDeadError`; end the engine's thread."""
        self._closing = True
        if not drain:
            self._fail_all(EngineDeadError("the replica is shutting down"))
        if self.queue or self._running:
            await self._drained.wait()
        await asyncio.to_thread(self._thread.join)

    def _schedule_start(self) -> None:
        # Not at once: what else is submitted in this turn of the loop shares the batch.
        if not self._start_scheduled and self._loop is not None:
            self._start_scheduled = True
            self._loop.call_soon(self._start)

    def _start(self) -> None:
        self._start_scheduled = False
        now = self._clock()
        for item in self.queue.drop_expired(now):
            self._fail(item, DeadlineExceededError("The deadline passed before the input was computed."))
        bounds = self.max_batch_tokens, self.max_batch_inputs
        while len(self._running) < self._depth and (not self._running or self._waiting.fills(*bounds)):
            batch = self._waiting.batch(*bounds, now)
            if batch is None:
                break
            self._running.add(batch)
            self._thread.run(partial(self._compute, batch))
        if self._closing and not self._running:
            self._drained.set()

    def _compute(self, batch: Batch) -> Callable[[], None]:
        """The part of the engine's first thread; what is left to do."""
        batch.started = self._clock()
        inputs = [item.token_ids for item in batch.inputs]
        tenants = [item.tenant for item in batch.inputs]
        run = partial(self._run, inputs, tenants) if any(tenants) else partial(self._run, inputs)
        wanting = [row for row, item in enumerate(batch.inputs) if item.output]
        if wanting:
            run = partial(run_both, self._run, self._run_tokens, inputs, tenants, wanting)
        launched = attempted(run)
        if callable(launched):
            return partial(self._collect, batch, launched)
        self._running.end(batch)
        return partial(self._post, self._computed, batch, launched)

    def _collect(self, batch: Batch, launched: Pending) -> None:
        """The part of the engine's last thread."""
        outcome = attempted(launched)
        self._running.end(batch)
        self._post(self._computed, batch, outcome)

    def _post(self, callback: Callable[..., None], *args: object) -> None:
        # A loop that is closed has nobody left to tell.
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *args)

    def _computed(self, batch: Batch, outcome: EncodedBatch | Exception) -> None:
        if not self._running.remove(batch):
            return
        # First the engine's next batch, then the answers of this one.
        self._start()
        checked = batch.checked(outcome, self._hidden_size)
        if isinstance(checked, EngineError):
            cause = outcome if isinstance(outcome, Exception) else checked
            logger.error("A batch of %d inputs failed", len(batch.inputs), exc_info=cause)
            batch.fail(checked)
            return
        self._running.rate.add(batch.tokens, batch.ended - batch.started)
        batch.reused = checked.reused or [0] * len(batch.inputs)
        self.on_batch(batch, checked.failed)
        batch.answer(checked)

    def _fail(self, item: Input, error: Exception) -> None:
        if not item.answered:
            self._waiting.drop(item)
            item.submission.fail(item, error)

    def _fail_all(self, error: Exception) -> None:
        for item in self._open.inputs():
            self._fail(item, error)

    def _abandoned(self, submission: Submission, future: asyncio.Future[Encoded]) -> None:
        if future.cancelled():
            for item in submission.inputs:
                self._fail(item, InputCancelledError("cancelled"))

    def _bury(self, cause: BaseException) -> None:
        if self._dead:
            return
        logger.critical("The engine is gone", exc_info=cause)
        self._dead = True
        self._running.clear()
        self._fail_all(EngineDeadError("the engine is gone"))
        self._drained.set()
