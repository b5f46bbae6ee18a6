"""What `loadtest.bench_engine` embeds: inputs of one length, of log-normal lengths, and short queries under an instruction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from loadtest.bench_queries import Queries
from serve_app.engine.tokenizer import Tokenizer

LENGTHS = (16, 64, 128, 512, 2048, 8192, 32768)
MIX_MEDIAN, MIX_SIGMA, MIX_SHORTEST, MIX_LONGEST = 90.0, 0.9, 4, 2048
QUERY_TOKENS = 43  # an instruction and a query, about
MOST_INPUTS = 8192


@dataclass(frozen=True)
class Case:
    """A number of inputs of these lengths in tokens, the end of the text included; `draw` gives texts, others at each call."""

    name: str
    lengths: list[int]
    draw: Callable[[], list[str]]

    @property
    def tokens(self) -> int:
        """Of all inputs."""
        return sum(self.lengths)


def one_token_words(tokenizer: Tokenizer) -> list[str]:
    """Words, each with a space before it, that are one token behind any other."""
    every = (tokenizer.decode(np.array([i], dtype=np.int32)) for i in range(tokenizer.end_of_text_id))
    return [word for word in every if word[:1] == " " and word[1:].isascii() and word[1:].isalpha()]


class Cases:
    """Makes cases out of `tokenizer`'s words, each of which is one token behind any other."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self._tokenizer = tokenizer
        self._words = one_token_words(tokenizer)
        self._seed = seed
        self._random = np.random.default_rng(seed)

    def uniform(self, length: int, tokens: float) -> Case:
        """As many inputs of one length as `tokens` hold, at least one."""
        return self._of(str(length), [length] * int(np.clip(tokens // length, 1, MOST_INPUTS)))

    def mix(self, tokens: float) -> Case:
        """Log-normal lengths, as texts in practice have, until there are `tokens` in all."""
        lengths: list[int] = []
        while sum(lengths) < tokens and len(lengths) < MOST_INPUTS:
            drawn = self._random.lognormal(np.log(MIX_MEDIAN), MIX_SIGMA)
            lengths.append(int(np.clip(drawn, MIX_SHORTEST, MIX_LONGEST)))
        return self._of("mix", lengths)

    def queries(self, tokens: float) -> Case:
        """Queries of 10 to 20 tokens under one instruction of 25 to 30."""
        count = int(np.clip(tokens // QUERY_TOKENS, 8, MOST_INPUTS))
        drawn = Queries(self._tokenizer, self._words, 1, count, self._seed)
        return Case("queries", drawn.tokens(drawn.draw()), drawn.draw)

    def choose(
        self, lengths: Sequence[int], rate: Callable[[int], float], seconds: float, longest: int
    ) -> tuple[list[Case], dict[str, str]]:
        """The cases that take about `seconds` each at `rate(length)` tokens a second, and those left out with the reason.

        A single input that would take over four times as long, or is over `longest`, is left out.
        """
        cases, left_out = [], {}
        for length in lengths:
            alone = length / rate(length)
            if length > longest:
                left_out[str(length)] = f"the model takes {longest} tokens"
            elif alone > 4 * seconds:
                left_out[str(length)] = (
                    f"one input takes about {alone:.0f} s, --seconds {seconds:g} allows {4 * seconds:.0f}"
                )
            else:
                cases.append(self.uniform(length, seconds * rate(length)))
        return [*cases, self.mix(seconds * rate(200)), self.queries(seconds * rate(40))], left_out

    def _of(self, name: str, lengths: list[int]) -> Case:
        def draw() -> list[str]:
            return ["".join(self._random.choice(self._words, length - 1)) for length in lengths]

        return Case(name, lengths, draw)
