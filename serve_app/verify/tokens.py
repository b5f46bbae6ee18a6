"""Whether texts reach the model with the end token that it is pooled at."""

from __future__ import annotations

from collections.abc import Iterator

from serve_app.engine import self_check
from serve_app.engine.finding import Finding
from serve_app.verify.client import Client

END_OF_TEXT = "<|endoftext|>"


def check_end_token(client: Client, text: str) -> Iterator[Finding]:
    """What /tokenize, usage and token ids say of the end of texts."""
    tokens = client.tokens(text)
    if tokens is None:
        yield Finding("end token", None, "needs the route /tokenize")
        return
    ids = [int(token["id"]) for token in tokens]
    vectors, counted = client.embed_counted([text])
    if not tokens or tokens[-1]["text"] != END_OF_TEXT:
        last = tokens[-1]["text"] if tokens else None
        yield Finding(
            "end token",
            False,
            f"texts end with {last!r} and not with {END_OF_TEXT}, which the model is pooled at. The first uploads of these models "
            "lacked that step in tokenizer.json: fetch a newer revision.",
        )
    elif counted != len(ids):
        why = "the end token may be missing" if counted < len(ids) else "something may be put before it"
        said = f"{counted} tokens are counted for a text that /tokenize says has {len(ids)}: {why}"
        yield Finding("end token", False, said)
    elif (cosine := float(vectors[0] @ client.embed([ids])[0])) < 1 - self_check.COSINE["bfloat16"]:
        said = f"a text and its own token ids with {END_OF_TEXT} have different vectors: cosine {cosine:.4f}"
        yield Finding("end token", False, said)
    elif (cosine := float(vectors[0] @ client.embed([ids[:-1]])[0])) < 1 - self_check.COSINE["bfloat16"]:
        said = f"token ids without {END_OF_TEXT} don't get it: cosine {cosine:.4f} with the text"
        yield Finding("end token", False, said)
    else:
        yield Finding("end token", True, f"{END_OF_TEXT} ends texts and token ids")


def check_truncation(client: Client, text: str, dtype: str) -> Iterator[Finding]:
    """Whether a text that is cut still ends as it should."""
    tokens = client.tokens(text)
    if tokens is None:
        return
    ids = [int(token["id"]) for token in tokens]
    keep = max(2, len(ids) // 2)
    cut = client.embed([text], truncate="end", truncate_prompt_tokens=keep)[0]
    wanted = client.embed([[*ids[: keep - 1], ids[-1]]])[0]
    cosine = float(cut @ wanted)
    if cosine >= 1 - self_check.tolerance_of(dtype):
        yield Finding("truncation", True, f"a text cut to {keep} of {len(ids)} tokens ends with {END_OF_TEXT}")
        return
    said = (
        f"a text cut to {keep} of {len(ids)} tokens isn't its first {keep - 1} and {END_OF_TEXT} (cosine {cosine:.4f})"
    )
    yield Finding("truncation", False, f"{said}: cut texts lose the token that the model is pooled at")
