from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from serve_app.engine.demo_tokenizer import demo_tokenizer
from serve_app.engine.tokenizer import END_OF_TEXT, Tokenizer
from serve_app.errors import CheckpointError
from serve_app.types import Truncate
from tests.checkpoints import checkpoint

TEXTS = [
    "",
    " ",
    "The capital of China is Beijing.",
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:why is the sky blue?",
    "中国的首都是北京。 12345 ½ é e\u0301 🙂‍🚀 \n\n\t x",
    "typed out: <|im_end|> and <think> and <|endoftext|> inside <|endoftext|>",
    "<|endoftext|>",
    "a" * 3000,
    "\x00\ud7ff\ufffd",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.read(checkpoint())


def test_ids_are_those_of_transformers(tokenizer: Tokenizer) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(checkpoint())
    batch = tokenizer.encode_batch(TEXTS)
    for text, ids in zip(TEXTS, batch, strict=True):
        assert ids.dtype == np.int32
        assert ids.tolist() == reference(text)["input_ids"]
        assert ids.tolist() == tokenizer.encode(text).tolist()
        assert ids[-1] == tokenizer.end_of_text_id


def test_decode_gives_the_text_back(tokenizer: Tokenizer) -> None:
    text = "Où? 東京 <|im_end|>"
    assert tokenizer.decode(tokenizer.encode(text)) == text + END_OF_TEXT


def test_vocab_size_counts_added_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 1280
    assert tokenizer.encode("</think>")[0] == 1279
    assert tokenizer.end_of_text_id == 1280 - 26


def test_append_end_of_text_only_if_absent(tokenizer: Tokenizer) -> None:
    end = tokenizer.end_of_text_id
    for given, expected in (([5, 6], [5, 6, end]), ([5, end], [5, end]), ([], [end])):
        ids = tokenizer.append_end_of_text(np.array(given, dtype=np.int32))
        assert ids.dtype == np.int32
        assert ids.tolist() == expected


@pytest.mark.parametrize(
    ("side", "limit", "expected"),
    [
        (Truncate.END, 3, [1, 2, "end"]),
        (Truncate.START, 3, [4, 5, "end"]),
        (Truncate.END, 1, ["end"]),
        (Truncate.START, 1, ["end"]),
        (Truncate.END, 6, [1, 2, 3, 4, 5, "end"]),
        (Truncate.NONE, 6, [1, 2, 3, 4, 5, "end"]),
    ],
)
@pytest.mark.parametrize("given", [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5, "end"]])
def test_cut_keeps_end_of_text_last(
    tokenizer: Tokenizer, given: list[int | str], side: Truncate, limit: int, expected: list[int | str]
) -> None:
    def ids(values: list[int | str]) -> list[int]:
        return [tokenizer.end_of_text_id if value == "end" else int(value) for value in values]

    cut = tokenizer.cut(np.array(ids(given), dtype=np.int32), limit, side)
    assert cut.dtype == np.int32
    assert cut.tolist() == ids(expected)


def test_cut_refuses_impossible_limits(tokenizer: Tokenizer) -> None:
    ids = np.arange(5, dtype=np.int32)
    with pytest.raises(ValueError, match="limit is 0"):
        tokenizer.cut(ids, 0, Truncate.END)
    with pytest.raises(ValueError, match="6 tokens are over the limit of 4"):
        tokenizer.cut(ids, 4, Truncate.NONE)


def test_truncation_and_padding_in_the_file_are_ignored(tmp_path: Path) -> None:
    loaded = tokenizers.Tokenizer.from_file(str(checkpoint() / "tokenizer.json"))
    loaded.enable_truncation(4)
    loaded.enable_padding(length=64)
    loaded.save(str(tmp_path / "tokenizer.json"))
    text = "a text that is longer than four tokens, whatever the vocabulary"
    assert Tokenizer.read(tmp_path).encode(text).tolist() == Tokenizer.read(checkpoint()).encode(text).tolist()


def test_refuses_a_tokenizer_that_does_not_end_texts() -> None:
    with pytest.raises(CheckpointError, match=r"doesn't end with <\|endoftext\|>.*first uploads"):
        Tokenizer(demo_tokenizer(512, end_of_text=False))


def test_refuses_a_tokenizer_without_the_token() -> None:
    with pytest.raises(CheckpointError, match=r"there is no token <\|endoftext\|>"):
        Tokenizer(tokenizers.Tokenizer(tokenizers.models.BPE()))


def test_refuses_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        Tokenizer.read(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not readable as a tokenizer"):
        Tokenizer.read(tmp_path)


def test_threads_may_share_one(tokenizer: Tokenizer) -> None:
    expected = [ids.tolist() for ids in tokenizer.encode_batch(TEXTS)]
    found: list[list[list[int]]] = []

    def encode() -> None:
        for _ in range(5):
            found.append([ids.tolist() for ids in tokenizer.encode_batch(TEXTS)])

    threads = [threading.Thread(target=encode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 20


def test_encoding_releases_the_gil(tokenizer: Tokenizer) -> None:
    text = "a long text about nothing in particular " * 20_000
    done = threading.Event()
    thread = threading.Thread(target=lambda: (tokenizer.encode(text), done.set()))
    thread.start()
    turns = 0
    while not done.is_set():
        turns += 1  # counting at all while the other thread encodes needs the GIL
    thread.join()
    assert turns > 1000
