"""What `--target` of `embedserve eval` understands."""

from __future__ import annotations

import pytest

from serve_app.evals.run_prices import price_of
from serve_app.evals.target import Target, TargetError
from serve_app.telemetry.prices import read_price_book

KEYS = {"OPENAI_API_KEY": " sk-openai\n", "CO_API_KEY": "co-key", "OURS": "own-key"}


@pytest.mark.parametrize(
    ("text", "kind", "url", "model", "key"),
    [
        ("ours=http://localhost:8000", "ours", "http://localhost:8000", "", None),
        ("ours=https://x.example/v1/,key-env=OURS,model=m", "ours", "https://x.example/v1", "m", "own-key"),
        (
            "a=openai:text-embedding-3-small",
            "openai",
            "https://api.openai.com/v1",
            "text-embedding-3-small",
            "sk-openai",
        ),
        ("a=openai:http://localhost:9,model=m", "openai", "http://localhost:9", "m", None),
        ("a=openai:m,url=http://localhost:9/v1", "openai", "http://localhost:9/v1", "m", None),
        ("b=cohere:embed-v4.0", "cohere", "", "embed-v4.0", "co-key"),
        ("b=cohere:m,url=http://localhost:8000", "cohere", "http://localhost:8000", "m", None),
        ("c=local:/data/folder", "local", "", "/data/folder", None),
        ("d=tfidf", "tfidf", "", "character n-grams", None),
    ],
)
def test_what_is_understood(text: str, kind: str, url: str, model: str, key: str | None) -> None:
    target = Target.of(text, KEYS)
    assert (target.kind, target.url, target.model, target.key) == (kind, url, model, key)
    assert target.name == text.partition("=")[0]
    if key:
        assert key not in repr(target) + str(target.described())


def test_options() -> None:
    target = Target.of(
        "a=openai:http://h:1/v1,price=0.02,batch=10,instructions=prefix,model=Qwen/Qwen3-Embedding-8B", {}
    )
    assert target.described() == {
        "kind": "openai",
        "url": "http://h:1/v1",
        "model": "Qwen/Qwen3-Embedding-8B",
        "batch": 10,
        "price_per_million": 0.02,
        "instructions": "prefix",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("one", "isn't NAME=URL"),
        ("one=", "isn't NAME=URL"),
        ("a/b=tfidf", "isn't a target's name"),
        ("one=ftp://x", "isn't an http URL"),
        ("one=localhost:8000", "A URL starts with http:// or https://"),
        ("one=gpt:4", "is no target"),
        ("one=cohere:", "lacks what comes after the colon"),
        ("one=http://user:password@x", "more than a host"),
        ("one=http://x?api-key=password", "more than a host"),
        ("one=openai:m,url=x", "isn't an http URL"),
        ("one=http://x,prize=1", "options of such a target (ours): batch=…, key-env=…, model=…, price=…"),
        ("one=tfidf,price=1", "options of such a target (tfidf): none"),
        ("one=http://x,price=-1", "isn't a number of dollars"),
        ("one=http://x,price=cheap", "isn't a number of dollars"),
        ("one=http://x,price=1,price=2", "price is there twice"),
        ("one=http://x,batch=0", "isn't a number from 1 to 2048"),
        ("one=openai:http://x,instructions=suffix", "instructions=prefix is"),
        ("one=http://x,key-env=NOT_SET", "no key in the environment variable NOT_SET"),
        ("one=openai:text-embedding-3-small", "no key in the environment variable OPENAI_API_KEY"),
        ("one=cohere:embed-v4.0", "no key in the environment variable CO_API_KEY"),
    ],
)
def test_what_can_not_be_used_is_said(text: str, said: str) -> None:
    with pytest.raises(TargetError) as error:
        Target.of(text, {})
    assert said in str(error.value)
    assert "password" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("a=openai:text-embedding-3-large", 0.13),
        ("a=cohere:embed-multilingual-v3.0", 0.10),
        ("a=cohere:embed-multilingual-v3.0,price=0.5", 0.5),
        ("a=cohere:embed-multilingual-v3.0,url=http://localhost:1", None),
        ("a=openai:text-embedding-3-large,url=http://localhost:1", None),
        ("a=openai:unheard-of", None),
        ("a=http://localhost:1,price=0", 0.0),
        ("a=tfidf", None),
    ],
)
def test_prices_are_the_users_or_the_books(text: str, price: float | None) -> None:
    assert price_of(Target.of(text, KEYS), read_price_book()) == price
