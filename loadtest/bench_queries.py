"""Short queries under an instruction: the engine with its shared prefixes, and without.

python -m loadtest.bench_engine --case queries --out report.json

A round is `--queries` texts of 10 to 20 tokens, each under one of `--instructions` of 25 to 30. Every round has
other words in the same lengths; both engines compute them, in turn, with the same weights. Tokenizing is part of
it. Tokens a second count all tokens, reused or not.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from loadtest.bench_report import describe_run, summarize
from serve_app.engine.engine import Engine
from serve_app.engine.tokenizer import Tokenizer

INSTRUCTION_TOKENS = (25, 30)
TEXT_TOKENS = (10, 20)


class Queries:
    """Draws texts from `words`, each of which is one token behind any other."""

    def __init__(self, tokenizer: Tokenizer, words: list[str], instructions: int, queries: int, seed: int) -> None:
        self._tokenizer = tokenizer
        self._words = words
        self._random = np.random.default_rng(seed)
        around = len(tokenizer.encode(f"Instruct:{words[0]}\nQuery:")) - 2  # less the word and the end of the text
        lengths = self._random.integers(*INSTRUCTION_TOKENS, instructions, endpoint=True)
        self.instructions = [f"Instruct:{self._text(length - around)}\nQuery:" for length in lengths]
        self._which = self._random.integers(instructions, size=queries)
        self._lengths = self._random.integers(*TEXT_TOKENS, queries, endpoint=True)

    def draw(self) -> list[str]:
        """The next round's."""
        return [
            self.instructions[which] + self._text(length)
            for which, length in zip(self._which, self._lengths, strict=True)
        ]

    def tokens(self, texts: list[str]) -> list[int]:
        """Tokens of each, the end of the text included."""
        return [len(ids) for ids in self._tokenizer.encode_batch(texts)]

    def _text(self, tokens: int) -> str:
        return "".join(self._random.choice(self._words, tokens))


def measure_queries(
    options: argparse.Namespace,
    engine: Engine,
    tokenizer: Tokenizer,
    words: list[str],
    seconds: Callable[[Callable[[], object]], float],
) -> dict[str, Any]:
    """Check that both agree, and run the rounds; `seconds` takes the wall time of a call."""
    queries = Queries(tokenizer, words, options.instructions, options.queries, options.seed)
    engines = {
        "reuse off": Engine(engine.model, max_batch_tokens=engine.max_batch_tokens, prefix_cache_mb=0),
        "reuse on": Engine(engine.model, max_batch_tokens=engine.max_batch_tokens),
    }
    ids = tokenizer.encode_batch(queries.draw())
    expected = engines["reuse off"].encode(ids)
    engines["reuse on"].encode(ids)  # finds the prefixes
    found, _, reused = engines["reuse on"].encode_checked(ids)
    cosine = float((found * expected).sum(axis=1).min())
    if not cosine > (0.9999 if engine.precision.name == "float32" else 0.99):
        raise SystemExit(f"reuse changes the vectors: lowest cosine {cosine}")

    def run(contestant: Engine, texts: list[str]) -> None:
        contestant.encode(tokenizer.encode_batch(texts))

    times: dict[str, list[float]] = {name: [] for name in engines}
    for i in range(options.rounds):
        texts = queries.draw()
        for name in sorted(engines, reverse=bool(i % 2)):
            times[name].append(seconds(partial(run, engines[name], texts)))
    tokens = sum(map(len, ids))
    return {
        **describe_run(engine.device),
        "workload": {**vars(options), "texts": len(ids), "tokens": tokens},
        "instruction_tokens": [tokens - 1 for tokens in queries.tokens(queries.instructions)],
        "engine": {
            "dtype": str(engine.dtype),
            "batch_tokens": engine.max_batch_tokens,
            "shapes": asdict(engine.config),
        },
        "lowest_cosine": cosine,
        "reused_share": sum(reused) / tokens,
        "results": summarize(times, tokens),
    }
