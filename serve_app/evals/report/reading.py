"""How to read the figures: the same words in Markdown and HTML."""

READING = [
    "Figures are shares of 1 unless they have a unit. Below or behind a figure stands its 95 % confidence interval, from bootstrap "
    "resampling of the items.",
    "The best target of a suite is bold only where a paired test on the same items says that it is better than each of the others. "
    "A difference that may well be chance is called so in the last column, which is no proof that there is none. p-values are "
    "corrected for the number of comparisons (Holm).",
    "Latency is of the requests really sent, as the measuring machine saw them.",
]
