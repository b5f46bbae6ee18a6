"""A first guess at what tokens mean: latent semantic analysis over statements that say the same in four languages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Tokenizer


def token_meanings(tokenizer: Tokenizer, groups: Sequence[Sequence[str]], size: int, seed: int) -> torch.Tensor:
    """Vectors of all tokens, float32 [vocabulary, size], the mean square of a token that occurs being 1; others are 0.

    A document is a group of texts that belong together, so tokens of different languages meet in it. Counts are weighed
    log(1 + tf) × idf, each document to length 1, and cut to `size` dimensions (Deerwester et al., 1990; across languages: Dumais
    et al., 1997).
    """
    counts = torch.zeros(tokenizer.get_vocab_size(), len(groups))
    for column, group in enumerate(groups):
        found = Counter(
            token for each in tokenizer.encode_batch(list(group), add_special_tokens=False) for token in each.ids
        )
        for token, count in found.items():
            counts[token, column] = np.log1p(count)
    seen = (counts > 0).sum(1, keepdim=True)
    weighed = counts * torch.log(len(groups) / seen.clamp(min=1))
    weighed = weighed / weighed.norm(dim=0, keepdim=True).clamp(min=1e-6)
    torch.manual_seed(seed)
    left, values, _ = torch.svd_lowrank(weighed, q=size, niter=4)
    meanings = left * values.sqrt()
    return meanings / meanings.pow(2).mean(1, keepdim=True).sqrt().clamp(min=1e-6)
