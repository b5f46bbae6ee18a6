"""LangChain and LlamaIndex with only the base URL changed."""

from __future__ import annotations

from pathlib import Path

import llama_index.core
import numpy as np
import pytest
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.openai_like import OpenAILikeEmbedding

from serve_app.cluster.tokenize import tiktoken_decoder
from tests.reference import assert_same, expected
from tests.running import RunningService

pytestmark = pytest.mark.cluster
TEXTS = ["The capital of China is Beijing.", "重力是一种力。", "Gravity gives weight to physical objects."]

# llama-index ships OpenAI's encoding, in the cache layout that tiktoken looks into before the network.
TIKTOKEN_CACHE = Path(llama_index.core.__file__).parent / "_static" / "tiktoken_cache"
CL100K = TIKTOKEN_CACHE / "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"


def langchain(service: RunningService, **options: object) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(model="demo", base_url=service.base_url, api_key="EMPTY", **options)


def test_langchain_sending_text(service: RunningService) -> None:
    embeddings = langchain(service, check_embedding_ctx_length=False)
    assert_same(embeddings.embed_documents(TEXTS), expected(TEXTS))
    assert_same([embeddings.embed_query(TEXTS[0])], expected(TEXTS[:1]))


def test_langchain_by_default_sends_other_ids(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why the README warns: without the setting, such ids are refused where they're out of range, or mean other texts."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(TIKTOKEN_CACHE))
    try:
        got = np.array(langchain(service).embed_documents(TEXTS), np.float32)
    except Exception as error:
        assert "ids must come from this model's own tokenizer" in str(error)
    else:
        assert not np.allclose(got, expected(TEXTS), atol=1e-3)


def test_llama_index(service: RunningService) -> None:
    model = OpenAILikeEmbedding(model_name="demo", api_base=service.base_url, api_key="EMPTY")
    assert_same(model.get_text_embedding_batch(TEXTS), expected(TEXTS))
    assert_same([model.get_query_embedding(TEXTS[0])], expected(TEXTS[:1]))


def test_tiktoken_decoder_reads_a_local_file() -> None:
    import tiktoken.load

    ranks = tiktoken.load.load_tiktoken_bpe(str(CL100K))
    ids = [ranks[b"The"], ranks[b" capital"]]
    assert tiktoken_decoder("cl100k_base", str(CL100K))(np.array(ids, np.int32)) == "The capital"
