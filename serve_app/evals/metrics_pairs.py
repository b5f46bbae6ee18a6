"""ROC-AUC of similar against dissimilar pairs as a mean over pairs, so that it can be tested like other means."""

from __future__ import annotations

from serve_app.evals.metrics import Bools, Floats


def auc_shares(similar: Bools, scores: Floats) -> Floats:
    """What each pair adds to ROC-AUC: values `[pairs]` whose mean is the area. Both arguments `[pairs]`, with pairs of both kinds.

    The placement of a similar pair is the share of dissimilar ones below it, that of a dissimilar pair the share of similar ones
    above it, ties counting half. Here each is spread around the area by (number of pairs) / (number of its kind). The variance of
    the mean is then DeLong's variance of the area (DeLong, DeLong, Clarke-Pearson, Biometrics 44, 1988), and a paired test
    of the means is one of two areas, which takes neither kind of pairs as given.
    """
    above, below = scores[similar], scores[~similar]
    wins = (above[:, None] > below) + 0.5 * (above[:, None] == below)
    area, shares = wins.mean(), scores.astype(float)
    shares[similar] = area + (wins.mean(axis=1) - area) * len(scores) / len(above)
    shares[~similar] = area + (wins.mean(axis=0) - area) * len(scores) / len(below)
    return shares
