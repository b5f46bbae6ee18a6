"""The contrastive loss: InfoNCE in both directions with all texts of a batch as negatives, at several lengths of the vector."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def contrastive(
    vectors: torch.Tensor,
    positives: torch.Tensor,
    ignored: torch.Tensor,
    *,
    dims: tuple[int, ...],
    temperature: float,
) -> torch.Tensor:
    """Mean loss over every text that has a positive, and over `dims`.

    `vectors` float [n, d], not normalised; `positives`, `ignored` bool [n, n]. For anchor i and each of its positives j the loss is
    -log(exp(s_ij) / (exp(s_ij) + Σ over negatives exp(s_ik))), s the cosine over the temperature (van den Oord et al., 2018; several
    positives as in Khosla et al., 2020). The first `dims` coordinates must do as well as all of them (Kusupati et al., 2022).
    """
    total = vectors.new_zeros(())
    counts = positives.sum(1)
    anchors = counts > 0
    barred = ignored | positives
    for length in dims:
        unit = F.normalize(vectors[:, :length].float(), dim=-1)
        scores = unit @ unit.T / temperature
        against = scores.masked_fill(barred, float("-inf")).logsumexp(1, keepdim=True)
        each = F.softplus(against - scores) * positives
        total = total + (each.sum(1)[anchors] / counts[anchors]).mean()
    return total / len(dims)
