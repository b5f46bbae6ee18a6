"""The bridge to mteb: a tiny retrieval and a tiny STS task of mteb itself, run by mteb, and which instruction goes where."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI

from serve_app.api.app import build_app
from serve_app.api.prompts import prompt_for
from tests.defective_service import DefectiveService
from tests.in_process import Bridge
from tests.reference import expected

mteb = pytest.importorskip("mteb")

from datasets import Dataset, DatasetDict  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.sts import AbsTaskSTS  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models import EncoderProtocol  # noqa: E402
from mteb.types import PromptType  # noqa: E402

from serve_app.evals.mteb_encoder import PARALLEL, SIMILAR, TEXTS_A_REQUEST, ServiceEncoder  # noqa: E402

SENTENCES = [
    "The cat sleeps on the warm stove.",
    "Shares fell after the central bank spoke.",
    "Boil the rice for ten minutes.",
]
QUESTION = "Given a question, find the sentence that answers it"
META: dict[str, Any] = {
    "description": "A few sentences.",
    "reference": None,
    "dataset": {"path": "none", "revision": "1"},
    "category": "t2t",
    "modalities": ["text"],
    "eval_splits": ["test"],
    "eval_langs": ["eng-Latn"],
    "date": None,
    "domains": None,
    "task_subtypes": None,
    "license": None,
    "annotations_creators": None,
    "dialect": None,
    "sample_creation": None,
    "bibtex_citation": None,
}


class TinyRetrieval(AbsTaskRetrieval):
    """Every query is its document's own text: whoever embeds documents bare and queries bare finds each first."""

    metadata = TaskMetadata(
        type="Retrieval", name="TinyRetrieval", main_score="ndcg_at_10", prompt={"query": QUESTION}, **META
    )

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        split = {
            "corpus": Dataset.from_list(
                [{"id": f"d{i}", "title": "", "text": text} for i, text in enumerate(SENTENCES)]
            ),
            "queries": Dataset.from_list([{"id": f"q{i}", "text": text} for i, text in enumerate(SENTENCES)]),
            "relevant_docs": {f"q{i}": {f"d{i}": 1} for i in range(len(SENTENCES))},
            "top_ranked": None,
        }
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


class TinySTS(AbsTaskSTS):
    """Pairs of the same sentence score 1, of different ones 0."""

    metadata = TaskMetadata(type="STS", name="TinySTS", main_score="cosine_spearman", **META)
    min_score, max_score = 0, 1

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        pairs = {
            "sentence1": [*SENTENCES, *SENTENCES],
            "sentence2": [*SENTENCES, *SENTENCES[1:], SENTENCES[0]],
            "score": [1.0] * 3 + [0.0] * 3,
        }
        self.dataset = DatasetDict({"test": Dataset.from_dict(pairs)})
        self.data_loaded = True


@pytest.fixture
def service() -> DefectiveService:
    return DefectiveService()


@pytest.fixture
def client(service: DefectiveService) -> Iterator[OpenAI]:
    with httpx.Client(transport=Bridge(build_app(service))) as http:
        yield OpenAI(base_url="http://test/v1", api_key="none", http_client=http, max_retries=0)


def test_mteb_runs_retrieval_with_instructions_for_queries_alone(service: DefectiveService, client: OpenAI) -> None:
    model = ServiceEncoder("http://test", client=client)
    assert isinstance(model, EncoderProtocol)
    [result] = mteb.evaluate(model, TinyRetrieval(), cache=None, show_progress_bar=False).task_results
    queries = [job for job in service.jobs if job.prompt]
    documents = [job for job in service.jobs if not job.prompt]
    assert {job.prompt for job in queries} == {prompt_for(QUESTION)}
    assert sorted(text for job in queries for text in job.texts or []) == sorted(SENTENCES)
    assert sorted(text.strip() for job in documents for text in job.texts or []) == sorted(SENTENCES)
    found = expected(SENTENCES, QUESTION) @ expected(SENTENCES).T
    ranks = [1 + int((row > row[i]).sum()) for i, row in enumerate(found)]
    assert result.get_score() == pytest.approx(np.mean([1 / np.log2(rank + 1) for rank in ranks]), abs=1e-4)


def test_mteb_runs_sts_with_the_official_instruction_on_both_sides(service: DefectiveService, client: OpenAI) -> None:
    model = ServiceEncoder("http://test", client=client)
    [result] = mteb.evaluate(model, TinySTS(), cache=None, show_progress_bar=False).task_results
    assert {job.prompt for job in service.jobs} == {prompt_for(SIMILAR)}
    # All pairs that are alike before all that aren't: 1, or less where rounding orders those that are alike, but no less than this.
    assert result.get_score() > 0.87


@pytest.mark.parametrize(
    ("kind", "prompt", "side", "wanted"),
    [
        ("STS", "Judge", None, SIMILAR),
        ("PairClassification", None, None, SIMILAR),
        ("PairClassification", None, PromptType.document, SIMILAR),
        ("BitextMining", "Judge", None, PARALLEL),
        ("Retrieval", "Find", PromptType.query, "Find"),
        ("Retrieval", {"query": "Find", "document": "Be found"}, PromptType.query, "Find"),
        ("Retrieval", {"query": "Find", "document": "Be found"}, PromptType.document, None),
        ("Reranking", "Find", PromptType.document, None),
        ("Classification", "Sort", None, "Sort"),
        ("Clustering", {"query": "Group"}, None, "Group"),
    ],
)
def test_which_instruction(
    client: OpenAI, kind: str, prompt: object, side: PromptType | None, wanted: str | None
) -> None:
    task = SimpleNamespace(type=kind, name="Some task", prompt=prompt)
    model = ServiceEncoder("http://test", client=client, instructions={"Other task": "Something else"})
    assert model.instruction(task, side) == wanted


def test_an_instruction_of_ones_own_and_one_of_the_kind_of_task(client: OpenAI) -> None:
    model = ServiceEncoder("http://test", client=client, instructions={"Mine": "As I say"})
    assert model.instruction(SimpleNamespace(type="STS", name="Mine", prompt=None)) == "As I say"
    assert model.instruction(SimpleNamespace(type="Retrieval", name="Mine", prompt=None), PromptType.document) is None
    without = SimpleNamespace(type="STS", name="TinyRetrieval", prompt=None)
    without.type = "Classification"
    assert model.instruction(without) == AbsTaskRetrieval.abstask_prompt


def test_many_texts_empty_ones_and_fewer_dimensions(service: DefectiveService, client: OpenAI) -> None:
    model = ServiceEncoder("http://test/v1/", client=client, dimensions=32, instructions={"T": "Find"})
    texts = [f"Sentence {i}" for i in range(TEXTS_A_REQUEST)] + ["", "word " * 600]
    found = model.encode(
        [{"text": texts[:5]}, {"text": texts[5:]}],
        task_metadata=SimpleNamespace(type="Retrieval", name="T", prompt=None),
        hf_split="test",
        hf_subset="default",
        prompt_type=PromptType.query,
    )
    assert found.shape == (len(texts), 32)
    wanted = expected(texts[:3], "Find")[:, :32]
    np.testing.assert_allclose(found[:3], wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-5)
    assert {" "} < {text for job in service.jobs for text in job.texts or []}
    assert (model.mteb_model_meta.name, model.mteb_model_meta.revision) == ("embedserve/demo-32d", "served")
    assert model.mteb_model_meta.max_tokens == 512


def test_a_service_that_refuses(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="'other' is not served here"):
        ServiceEncoder("http://test", "other", client=client)
