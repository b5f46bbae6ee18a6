"""Parity with transformers and sentence-transformers, and what a batch may and may not change."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from serve_app.engine.checkpoint import Checkpoint
from serve_app.engine.engine import Engine
from serve_app.engine.tokenizer import Tokenizer
from serve_app.errors import EngineError, NonFiniteError
from serve_app.types import TokenIds, Vectors
from tests.checkpoints import SHAPES, checkpoint, copy_of, random_ids, with_shape

LENGTHS = [1, 2, 3, 7, 16, 17, 17, 17, 64, 100, 255, 512, 1000]
TEXTS = [
    "What is the capital of China?",
    "",
    "重力是什么?",
    "def f(x):\n    return x ** 2",
    "A <|im_end|> typed out. " * 40,
    "Où est la gare?",
]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@cache
def engine(shape: str = "demo") -> Engine:
    return Engine.load(str(checkpoint(shape)), device="cpu")


@cache
def reference(shape: str) -> Callable[[TokenIds], Vectors]:
    """transformers' own model: last token's final state, normalised."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(checkpoint(shape), dtype=torch.float32).eval()

    @torch.inference_mode()
    def embed(ids: TokenIds) -> Vectors:
        states = model(torch.from_numpy(ids.astype(np.int64))[None]).last_hidden_state
        return torch.nn.functional.normalize(states[0, -1], dim=0).numpy()

    return embed


def assert_same(found: Vectors, expected: Vectors, difference: float = 1e-5) -> None:
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= difference
    assert (found.astype(np.float64) * expected).sum(-1).min() >= 0.99999


@pytest.mark.parametrize("shape", SHAPES)
def test_vectors_are_those_of_transformers(shape: str) -> None:
    ids = random_ids(LENGTHS, SHAPES[shape].vocab_size)
    expected = np.stack([reference(shape)(one) for one in ids])
    assert_same(engine(shape).encode(ids), expected)


@pytest.mark.parametrize("shape", ["demo", "one-key-head"])
def test_long_inputs_are_those_of_transformers(shape: str) -> None:
    ids = random_ids([8192, 3001], SHAPES[shape].vocab_size)
    expected = np.stack([reference(shape)(one) for one in ids])
    assert_same(engine(shape).encode(ids), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("prompt", ["query", "document"])
def test_texts_are_those_of_sentence_transformers(shape: str, prompt: str) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(checkpoint(shape)), device="cpu", model_kwargs={"dtype": torch.float32})
    expected = model.encode(TEXTS, prompt_name=prompt, batch_size=len(TEXTS))
    before = Checkpoint.read(checkpoint(shape)).prompts[prompt]
    ids = Tokenizer.read(checkpoint(shape)).encode_batch([before + text for text in TEXTS])
    assert_same(engine(shape).encode(ids), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_mates_and_order_change_nothing(shape: str) -> None:
    ids = random_ids(LENGTHS, SHAPES[shape].vocab_size)
    alone = np.concatenate([engine(shape).encode([one]) for one in ids])
    order = np.random.default_rng(1).permutation(len(ids))
    for arrangement in (np.arange(len(ids)), order, order[:4]):
        together = engine(shape).encode([ids[i] for i in arrangement])
        assert np.abs(together - alone[arrangement]).max() <= 1e-6


def test_small_batches_give_the_same_as_large_ones() -> None:
    ids = random_ids(LENGTHS, SHAPES["demo"].vocab_size)
    small = Engine.load(str(checkpoint()), device="cpu", max_batch_tokens=64)
    assert small.max_batch_tokens == 64
    assert np.abs(small.encode(ids) - engine().encode(ids)).max() <= 1e-6


def test_feed_forward_in_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = random_ids([300, 5], SHAPES["demo"].vocab_size)
    whole = engine().encode(ids)
    monkeypatch.setattr("serve_app.engine.model.MLP_TOKENS", 64)
    assert np.abs(engine().encode(ids) - whole).max() <= 1e-6


def test_vectors_are_normalised() -> None:
    vectors = engine().encode(random_ids(LENGTHS, 1280))
    assert vectors.shape == (len(LENGTHS), 128)
    assert np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max() < 1e-6


def test_bfloat16_is_near_float32() -> None:
    ids = random_ids(LENGTHS, 1280)
    low = Engine.load(str(checkpoint()), device="cpu", dtype="bfloat16")
    assert low.dtype == torch.bfloat16
    vectors = low.encode(ids)
    assert vectors.dtype == np.float32
    assert (vectors * engine().encode(ids)).sum(1).min() > 0.999


def test_nothing_gives_nothing() -> None:
    assert engine().encode([]).shape == (0, 128)


@pytest.mark.parametrize(("megabytes", "computed"), [(1, 1), (0, 0)])
def test_warmup_goes_on_from_a_prefix_where_any_are_kept(
    megabytes: int, computed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm = Engine.load(str(checkpoint()), device="cpu", prefix_cache_mb=megabytes)
    made, gone_on = [], []
    prefix, pack = warm.model.prefix, warm.model.pack
    monkeypatch.setattr(warm.model, "prefix", lambda ids: made.append(prefix(ids)) or made[-1])
    monkeypatch.setattr(
        warm.model, "pack", lambda ids, shared=(): gone_on.extend(filter(None, shared)) or pack(ids, shared)
    )
    warm.warmup()
    assert len(made) == computed
    assert gone_on == made
    assert len(warm.prefixes) == 0, "it is nobody's instruction"


def test_warmup_and_attributes() -> None:
    loaded = engine()
    loaded.warmup()
    assert loaded.device == torch.device("cpu")
    assert loaded.dtype == torch.float32
    assert loaded.hidden_size == 128
    assert loaded.checkpoint is not None
    assert loaded.checkpoint.demo


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], r"input 1 has shape \[0\], 1 to 32768 token ids"),
        ([0] * 32769, r"input 1 has shape \[32769\]"),
        ([[1, 2]], r"input 1 has shape \[1, 2\]"),
        ([3, -1], "input 1 has token id -1, outside the vocabulary of 1280"),
        ([1280], "input 1 has token id 1280, outside the vocabulary of 1280"),
    ],
)
def test_refuses_bad_inputs(ids: list[int], message: str) -> None:
    good = np.array([1, 2, 3], dtype=np.int32)
    with pytest.raises(EngineError, match=message):
        engine().encode([good, np.array(ids, dtype=np.int32)])


def test_non_finite_rows_are_named_and_others_kept(tmp_path: Path) -> None:
    folder = copy_of(checkpoint(), tmp_path)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["embed_tokens.weight"][42, 0] = float("nan")
    save_file(tensors, file)
    broken = Engine.load(str(folder), device="cpu")
    ids = [np.array(values, dtype=np.int32) for values in ([1, 2, 3], [4, 42, 5], [6, 7, 8], [42])]
    with pytest.raises(NonFiniteError, match=r"inputs \[1, 3\]"):
        broken.encode(ids)
    vectors, bad, _ = broken.encode_checked(ids)
    assert bad == [1, 3]
    assert not vectors[bad].any()
    assert np.abs(vectors[[0, 2]] - engine().encode([ids[0], ids[2]])).max() <= 1e-6


def test_refuses_float16_with_the_reason() -> None:
    for dtype in ("float16", torch.float16):
        with pytest.raises(EngineError, match=r"float16 is refused: .* NaN\. bfloat16"):
            Engine.load(str(checkpoint()), device="cpu", dtype=dtype)
    with pytest.raises(EngineError, match="'int4' isn't supported"):
        Engine.load(str(checkpoint()), device="cpu", dtype="int4")


def test_refuses_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match=r"'cuda:0': torch .* finds no CUDA device"):
        Engine.load(str(checkpoint()), device="cuda:0")
    with pytest.raises(EngineError, match="'meta': only 'cpu' and 'cuda'"):
        Engine.load(str(checkpoint()), device="meta")
    with pytest.raises(EngineError, match="'abacus': torch doesn't know it"):
        Engine.load(str(checkpoint()), device="abacus")


def test_random_weights_stay_finite_and_seeded() -> None:
    shape = with_shape(num_hidden_layers=12)
    ids = random_ids([5, 50], shape.vocab_size)
    first, again, other = (Engine.random(shape, device="cpu", seed=seed).encode(ids) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other, atol=1e-2)
    with pytest.raises(EngineError, match=r"'2B' isn't one of 0.6B, 4B, 8B"):
        Engine.random("2B", device="cpu")


@needs_cuda
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "cosine"), [("float32", 0.9999), ("bfloat16", 0.998)])
def test_cuda_is_near_cpu(shape: str, dtype: str, cosine: float) -> None:
    ids = random_ids(LENGTHS, SHAPES[shape].vocab_size)
    vectors = Engine.load(str(checkpoint(shape)), device="cuda", dtype=dtype).encode(ids)
    assert (vectors * engine(shape).encode(ids)).sum(1).min() > cosine


@needs_cuda
def test_cuda_batch_mates_change_little() -> None:
    ids = random_ids(LENGTHS, 1280)
    loaded = Engine.load(str(checkpoint()), device="cuda")
    assert loaded.dtype == torch.bfloat16
    alone = np.concatenate([loaded.encode([one]) for one in ids])
    assert (alone * loaded.encode(ids)).sum(1).min() > 0.9995
