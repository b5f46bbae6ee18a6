"""`embedserve verify MODEL`: loads a model as a replica would, and checks its files and its vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from serve_app.cluster.service import matryoshka
from serve_app.engine import load_check, self_check
from serve_app.engine.checkpoint import Checkpoint, resolve
from serve_app.engine.engine import Engine
from serve_app.engine.finding import Finding, failures
from serve_app.engine.golden import DOCUMENTS, MORE_DOCUMENTS, QUERIES, Golden, score
from serve_app.engine.known import Recognised, recognise, weights_of
from serve_app.engine.tokenizer import Tokenizer
from serve_app.errors import CheckpointError, EngineError
from serve_app.types import DEMO_MODEL_ID, Vectors
from serve_app.verify.files import check_folder, check_prompts, check_weights
from serve_app.verify.report import Report

# "import…" is what the 8B is known to answer with NaN in float16 (QwenLM/Qwen3-Embedding issues 164 and 186).
_UNTIL_KEPT = 4  # times that an instruction has to be seen, and one
TEXTS = ("import numpy as np", "importance", "a", "短い文。", "¿Qué hora es? " * 20)


def verify_model(
    model: str,
    revision: str | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    against: Golden | None = None,
) -> tuple[Report, Engine | None]:
    """Check `model`, a folder or Hugging Face id, also against the scores of `against`; what was checked, and the engine if it loads.

    Raises `CheckpointError` if there is no such model.
    """
    path = resolve(model, revision)
    report = Report(model)
    report.findings += check_folder(path)
    if not report.passed:
        return report, None
    checkpoint = Checkpoint.read(path)
    recognised = recognise(checkpoint) if against is None else Recognised(against, "what it is held against")
    if recognised is not None:
        report.known = f"{recognised.golden.model}, by {recognised.by}"
    report.findings.append(check_prompts(checkpoint, recognised if against is None else None))
    report.findings += check_weights(checkpoint, recognised if against is None else None)
    if any(finding.check == "weights" for finding in failures(report.findings)):
        return report, None
    try:
        engine = Engine.load(str(path), device=device, dtype=dtype, verify=False, graphs=False)
    except (CheckpointError, EngineError) as error:
        report.findings.append(Finding("loading", False, str(error)))
        return report, None
    report.findings.append(Finding("loading", True, f"{engine.precision.name} on {engine.device}"))
    _check_vectors(report, engine, recognised)
    return report, engine


def _check_vectors(report: Report, engine: Engine, recognised: Recognised | None) -> None:
    tokenizer = Tokenizer.read(checkpoint_of(engine).path)
    vectors = engine.encode_checked(tokenizer.encode_batch(TEXTS)).vectors
    vectors[~vectors.any(axis=1)] = np.nan  # as zeros the engine hands over what isn't finite
    finite = self_check.check_finite(vectors)
    found = load_check.findings(engine)
    report.findings += [finite, *(each for each in found if each.check != "finite" or not each.passed)]
    if failures([finite, *found]):
        return
    report.findings += [check_dimensions(vectors), check_prefixes(engine, tokenizer)]
    if recognised is None:
        said = "not a checkpoint with known scores: record those of one that is right with --record, and compare with --against"
        report.findings.append(Finding("golden scores", None, said))
    else:
        report.findings.append(recognised.golden.check(encoder(engine), engine.precision.name))


def check_dimensions(vectors: Vectors) -> Finding:
    """Whether vectors that are cut get unit length again."""
    for dimensions in sorted({32, vectors.shape[1] // 2}):
        finding = self_check.check_norm(matryoshka(vectors, dimensions))
        if not finding.passed:
            return Finding("dimensions", False, f"cut to {dimensions}: {finding.said}")
    return Finding("dimensions", True, "vectors that are cut have length 1 again")


def check_prefixes(engine: Engine, tokenizer: Tokenizer) -> Finding:
    """Whether texts behind an instruction get the same vectors from its kept state as from the start."""
    if not engine.prefixes.capacity:
        return Finding("shared prefixes", None, "none are kept")
    ids = tokenizer.encode_batch([QUERIES[0] + text for text in TEXTS])
    for _ in range(_UNTIL_KEPT):
        found = engine.encode_checked(ids)
    whole = engine.model.forward(engine.model.pack(ids)).cpu().numpy()
    if not any(found.reused):
        return Finding("shared prefixes", None, "none was kept")
    worst = float((found.vectors * whole).sum(axis=1).min())
    if 1 - worst <= self_check.tolerance_of(engine.precision.name):
        return Finding("shared prefixes", True, f"the same from an instruction's kept state: cosine {worst:.6f}")
    said = f"texts behind a shared instruction come out wrong (cosine {worst:.4f}): serve with batch.prefix_cache_mb=0"
    return Finding("shared prefixes", False, said)


def recorded(engine: Engine) -> Golden:
    """What the engine gives, and what its checkpoint is known by: for a golden file."""
    checkpoint = checkpoint_of(engine)
    documents = (*DOCUMENTS, *MORE_DOCUMENTS)
    return Golden(
        DEMO_MODEL_ID if checkpoint.demo else checkpoint.name,
        score(encoder(engine), QUERIES, documents),
        QUERIES,
        documents,
        engine.precision.name,
        weights_of(checkpoint),
        [checkpoint.revision] if checkpoint.revision else [],
        {"scores": f"Computed by embedserve in {engine.precision.name} on {engine.device.type}."},
    )


def encoder(engine: Engine) -> Callable[[list[str]], Vectors]:
    """Texts to vectors, by the engine and its checkpoint's tokenizer."""
    tokenizer = Tokenizer.read(checkpoint_of(engine).path)
    return lambda texts: engine.encode(tokenizer.encode_batch(texts))


def checkpoint_of(engine: Engine) -> Checkpoint:
    """What the engine was loaded from."""
    assert engine.checkpoint is not None
    return engine.checkpoint
