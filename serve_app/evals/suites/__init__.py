"""What can be measured: each suite reads its texts, asks an encoder for vectors, and says what it found."""

from serve_app.evals.suites import clustering, compression, crosslingual, faq, instruction, pairs, techdocs
from serve_app.evals.suites.suite import Suite

__all__ = ["SUITES", "Suite"]

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        pairs.SUITE,
        crosslingual.SUITE,
        faq.SUITE,
        clustering.SUITE,
        techdocs.SUITE,
        instruction.SUITE,
        compression.SUITE,
    )
}
