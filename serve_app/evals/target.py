"""What is to be measured, as the command line names it: `NAME=WHAT[,OPTION=VALUE…]`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_app.errors import EmbedserveError
from serve_app.evals.target_options import Options

KINDS: Mapping[str, frozenset[str]] = {
    "ours": frozenset({"key-env", "model", "price", "batch"}),
    "openai": frozenset({"key-env", "model", "url", "price", "batch", "instructions"}),
    "cohere": frozenset({"key-env", "url", "price", "batch"}),
    "local": frozenset({"batch"}),
    "tfidf": frozenset(),
}
"""What kinds of targets there are, and the options of each."""

FORM = "NAME=URL, NAME=openai:URL_OR_MODEL, NAME=cohere:MODEL, NAME=local:FOLDER_OR_ID or NAME=tfidf"
OPENAI_URL = "https://api.openai.com/v1"
NAME = re.compile(r"[\w.-]{1,40}")


class TargetError(EmbedserveError):
    """A target that can't be understood, refuses, or can't be reached. The message names it and says what to do.

    `gone` says that asking it for something else would fail in the same way.
    """

    def __init__(self, message: str, gone: bool = False) -> None:
        super().__init__(message)
        self.gone = gone


@dataclass(frozen=True)
class Target:
    """One target. `url` is empty where there is no server or the vendor's own is meant; the key is in no representation.

    `price` is what it charges for a million of its own tokens, in US dollars. `batch` is how many texts go into a request.
    """

    name: str
    kind: str
    url: str = ""
    model: str = ""
    batch: int | None = None
    price: float | None = None
    prefix: bool = False
    """Whether Qwen3's `Instruct: …\\nQuery:` is put before a text that has an instruction."""
    key_env: str | None = None
    key: str | None = field(default=None, repr=False)

    def described(self) -> dict[str, object]:
        """Everything but the key; what isn't set is left out."""
        told: dict[str, object] = {
            "kind": self.kind,
            "url": self.url,
            "model": self.model,
            "batch": self.batch,
            "price_per_million": self.price,
            "instructions": "prefix" if self.prefix else "",
            "key_env": self.key_env,
        }
        return {key: value for key, value in told.items() if value not in ("", None)}

    @classmethod
    def of(cls, text: str, environment: Mapping[str, str]) -> Target:
        """Of the command line's text; the key is read from `environment`. Raises `TargetError`."""
        name, equals, rest = text.partition("=")
        what, *pairs = rest.split(",")
        if not (name and equals and what):
            raise TargetError(f"{text!r} isn't {FORM}")
        if not NAME.fullmatch(name):
            raise TargetError(f"{name!r} isn't a target's name: up to 40 letters, digits, '.', '_' and '-'")
        try:
            kind, url, model = _kind(what)
            options = Options.of(pairs, KINDS[kind], kind)
            found = cls(
                name,
                kind,
                options.url() or url,
                options.text("model") or model,
                options.count("batch"),
                options.dollars("price"),
                options.one_of("instructions", "prefix"),
            )
            key_env, key = options.key(environment, _usual_key(found))
        except ValueError as error:
            raise TargetError(f"{name}: {error}") from None
        return cls(**{**vars(found), "key_env": key_env, "key": key})


def _kind(what: str) -> tuple[str, str, str]:
    """The kind, the URL and the model that `what` names. Raises ValueError."""
    if what == "tfidf":
        return "tfidf", "", "character n-grams"
    kind, colon, rest = what.partition(":")
    if rest.startswith("//"):
        return "ours", Options.checked_url(what), ""
    if not colon or kind not in ("openai", "cohere", "local"):
        raise ValueError(f"{what!r} is no target: {FORM}. A URL starts with http:// or https://")
    if not rest:
        raise ValueError(f"{what!r} lacks what comes after the colon: {FORM}")
    if kind == "openai":
        return ("openai", Options.checked_url(rest), "") if "://" in rest else ("openai", OPENAI_URL, rest)
    return kind, "", rest


def _usual_key(target: Target) -> str | None:
    """The environment variable that the vendor's own client reads its key from; None for other servers."""
    if target.kind == "openai" and target.url == OPENAI_URL:
        return "OPENAI_API_KEY"
    return "CO_API_KEY" if target.kind == "cohere" and not target.url else None
