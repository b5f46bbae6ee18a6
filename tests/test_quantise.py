"""Vectors in fewer bytes: the definitions, and what they keep of the dot products."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.api.quantise import check_packing, int8_range, quantise
from serve_app.errors import InvalidRequestError
from serve_app.types import OutputType, Vectors


def units(seed: int, count: int, dimensions: int) -> Vectors:
    drawn = np.random.default_rng(seed).standard_normal((count, dimensions))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        # 64 dimensions and fewer: the range is 1.
        (OutputType.FLOAT, [[0.5, -0.5, 0.0, 1.0, -1.0, -0.0, 0.004, 1e-30]]),
        (OutputType.FLOAT16, [[0.5, -0.5, 0.0, 1.0, -1.0, -0.0, 0.004, 0.0]]),
        (OutputType.INT8, [[64, -64, 0, 127, -127, 0, 1, 0]]),
        (OutputType.UINT8, [[192, 64, 128, 255, 1, 128, 129, 128]]),
        (OutputType.UBINARY, [[0b10010011]]),
        (OutputType.BINARY, [[0b10010011 - 128]]),
    ],
)
def test_definitions(output: OutputType, expected: list[list[float]]) -> None:
    vectors = np.array([[0.5, -0.5, 0.0, 1.0, -1.0, -0.0, 0.004, 1e-30]], dtype=np.float32)
    got = quantise(vectors, output)
    kinds = {"float": "<f4", "float16": "<f2", "int8": "i1", "uint8": "u1", "binary": "i1", "ubinary": "u1"}
    assert got.dtype == np.dtype(kinds[output.value])
    assert np.array_equal(got, np.array(expected).astype(kinds[output.value]))


@pytest.mark.parametrize("dimensions", [8, 32, 256, 1024])
def test_binary_is_sentence_transformers_own(dimensions: int) -> None:
    quantization = pytest.importorskip("sentence_transformers.util.quantization")
    vectors = units(1, 20, dimensions)
    for name in ("binary", "ubinary"):
        assert np.array_equal(quantise(vectors, OutputType(name)), quantization.quantize_embeddings(vectors, name))


@pytest.mark.parametrize(("dimensions", "expected"), [(32, 1.0), (64, 1.0), (256, 0.5), (1024, 0.25), (4096, 0.125)])
def test_the_range_follows_the_length(dimensions: int, expected: float) -> None:
    assert int8_range(dimensions) == expected


def test_what_lies_beyond_the_range_is_clipped() -> None:
    vectors = np.zeros((2, 1024), dtype=np.float32)
    vectors[0, 0], vectors[1, 0] = 1.0, -1.0
    assert quantise(vectors, OutputType.INT8)[:, 0].tolist() == [127, -127]
    assert quantise(vectors, OutputType.UINT8)[:, 0].tolist() == [255, 1]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([32, 64, 100, 256, 1024]))
def test_int8_dot_products_stay_within_the_rounding(seed: int, dimensions: int) -> None:
    vectors = units(seed, 8, dimensions)
    step = int8_range(dimensions) / 127
    assert np.abs(vectors).max() <= int8_range(dimensions)
    quantised = quantise(vectors, OutputType.INT8).astype(np.int64)
    # Each component is off by half a step at most.
    lengths = np.abs(vectors).sum(axis=1)
    bound = step / 2 * (lengths[:, None] + lengths[None, :]) + dimensions * step**2 / 4 + 1e-6
    error = np.abs(quantised @ quantised.T * step**2 - vectors @ vectors.T)
    assert (error <= bound).all()
    # Rounding errors of components are independent: for random vectors they add up to less than a step each way.
    assert error.max() < 4 * step


def test_a_fixed_range_keeps_the_order_of_neighbours() -> None:
    # Vectors near a query at ten similarities, 0.05 apart: each type that claims to must rank them as float32 does.
    query = units(1, 1, 256)[0]
    others = units(2, 10, 256)
    others -= np.outer(others @ query, query)
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    cosines = np.linspace(0.95, 0.5, 10, dtype=np.float32)[:, None]
    ranked = cosines * query + np.sqrt(1 - cosines**2) * others
    for output in (OutputType.FLOAT16, OutputType.INT8):
        stored = quantise(ranked, output).astype(np.float64)
        asked = quantise(query[None], output)[0].astype(np.float64)
        assert np.argsort(-(stored @ asked)).tolist() == list(range(10))
    bits = np.unpackbits(quantise(ranked, OutputType.UBINARY), axis=1) ^ np.unpackbits(
        quantise(query[None], OutputType.UBINARY), axis=1
    )
    # The share of differing signs of two vectors is their angle over pi, on average.
    assert bits.mean(axis=1) == pytest.approx(np.arccos(cosines[:, 0]) / np.pi, abs=0.12)


def test_a_float_query_ranks_binary_documents_better_than_a_binary_one() -> None:
    queries, documents = units(5, 50, 256), units(6, 2000, 256)
    exact = queries @ documents.T
    signs = 2.0 * np.unpackbits(quantise(documents, OutputType.UBINARY), axis=1) - 1
    asked = 2.0 * np.unpackbits(quantise(queries, OutputType.UBINARY), axis=1) - 1

    def agreement(scores: np.ndarray) -> float:
        return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(exact, scores, strict=True)]))

    # Of random vectors, signs alone keep sqrt(2 / pi) of the correlation each time they are taken.
    assert agreement(queries @ signs.T) == pytest.approx(np.sqrt(2 / np.pi), abs=0.02)
    assert agreement(asked @ signs.T) == pytest.approx(2 / np.pi, abs=0.02)


def test_uint8_and_int8_differ_by_128_and_the_input_is_left_alone() -> None:
    vectors = units(3, 5, 128)
    before = vectors.copy()
    for output in OutputType:
        quantise(vectors[:, :64], output)
    assert np.array_equal(vectors, before)
    signed, unsigned = quantise(vectors, OutputType.INT8), quantise(vectors, OutputType.UINT8)
    assert np.array_equal(unsigned.astype(int), signed.astype(int) + 128)
    signed, unsigned = quantise(vectors, OutputType.BINARY), quantise(vectors, OutputType.UBINARY)
    assert np.array_equal(unsigned.astype(int), signed.astype(int) + 128)


@pytest.mark.parametrize("output", list(OutputType))
def test_only_whole_bytes_are_packed(output: OutputType) -> None:
    check_packing(output, 96, "dimensions")
    if output not in (OutputType.BINARY, OutputType.UBINARY):
        check_packing(output, 100, "dimensions")
        return
    with pytest.raises(InvalidRequestError) as caught:
        check_packing(output, 100, "output_dimension")
    assert caught.value.param == "output_dimension"
    assert caught.value.message == (
        f"'{output.value}' packs eight dimensions into a byte, and 100 isn't a multiple of eight. Ask for 96 or 104 "
        "dimensions, or for another type."
    )
