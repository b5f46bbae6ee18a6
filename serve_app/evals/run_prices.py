"""What a target charges."""

from __future__ import annotations

from serve_app.evals.target import OPENAI_URL, Target
from serve_app.telemetry.prices import PriceBook


def price_of(target: Target, book: PriceBook) -> float | None:
    """US dollars for a million of its tokens: what the user says, or the book for OpenAI's and Cohere's own services."""
    if target.price is not None:
        return target.price
    own = (target.kind == "cohere" and not target.url) or (target.kind == "openai" and target.url == OPENAI_URL)
    offer = book.hosted.get(f"{target.kind}:{target.model}") if own else None
    return offer.usd_per_million_tokens if offer else None
