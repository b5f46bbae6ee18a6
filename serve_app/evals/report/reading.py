"""How to read the figures: the same words in Markdown and HTML."""

READING = [
    "Figures are shares of 1 unless they have a unit. Below or behind a figure stands its 95 % confidence interval, from bootstrap "
    "resampling of the items.",
    "The best target of a suite is bold only where a paired test on the same items says that it is better than each of the others; "
    "otherwise the last column says “not significant”, which is no proof that they are equal. p-values are corrected for the number of "
    "comparisons (Holm).",
    "Costs are the prices that the command was given or knows; latency is of the requests really sent, from the first byte of the request "
    "to the last of the reply, as the measuring machine saw it.",
]
