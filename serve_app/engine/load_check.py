"""What an engine is held against when it has been loaded. A replica that fails doesn't start, and says why."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from serve_app.engine import self_check
from serve_app.engine.checkpoint import Checkpoint
from serve_app.engine.finding import Finding, failures
from serve_app.engine.known import recognise
from serve_app.engine.tokenizer import Tokenizer
from serve_app.errors import SelfCheckError
from serve_app.types import TokenIds, Vectors

if TYPE_CHECKING:
    from serve_app.engine.engine import Engine

log = logging.getLogger(__name__)


def hold(engine: Engine, checkpoint: Checkpoint) -> None:
    """Hold `engine` against what must be true of any model, and one that is recognised against its known scores.

    Raises `SelfCheckError` saying what is wrong, and `CheckpointError` for a golden file or tokenizer that can't be read.
    """
    found = findings(engine)
    recognised = recognise(checkpoint)
    if recognised is None:
        log.info(
            "%s isn't a checkpoint with known scores; `embedserve verify --record` makes them known", checkpoint.name
        )
    elif not failures(found):
        tokenizer = Tokenizer.read(checkpoint.path)
        scores = recognised.golden.check(
            lambda texts: engine.encode(tokenizer.encode_batch(texts)), engine.precision.name
        )
        found.append(scores)
        if scores.passed:
            log.info("%s is known by %s; scores are %s", checkpoint.name, recognised.by, scores.said)
    if wrong := failures(found):
        said = "; ".join(f"{finding.check}: {finding.said}" for finding in wrong)
        # Said here too, since Serve keeps the exception of a replica that doesn't start to its own files.
        log.error("%s fails its self-check, so it isn't served: %s", checkpoint.name, said)
        raise SelfCheckError(said)


def findings(engine: Engine) -> list[Finding]:
    """What `self_check` finds of an engine, without its graphs, which aren't recorded yet, and shared prefixes, where the ids asked
    for would stay behind."""

    def encode(token_ids: list[TokenIds]) -> Vectors:
        vectors: Vectors = engine.model.forward(engine.model.pack(token_ids)).cpu().numpy()
        return vectors

    ids = self_check.sequences(engine.config.vocab_size)
    return self_check.check_engine(encode, lambda asked: engine.launch_tokens(asked)(), ids, engine.precision.name)
