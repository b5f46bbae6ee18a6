"""A running service as a model of the `mteb` package (2.x), with the task instructions that the models' authors evaluate with.

    import mteb
    from serve_app.evals.mteb_encoder import ServiceEncoder

    model = ServiceEncoder("http://localhost:8000")
    mteb.evaluate(model, mteb.get_tasks(tasks=["STS17", "BelebeleRetrieval"]), cache=None)

mteb keeps results by a model's name and revision, and would take them for those of another day's service: hence `cache=None`, or a
`name` of your own.

Instructions follow the evaluation code of QwenLM/Qwen3-Embedding: the template is `Instruct: {}\\nQuery:` (the service writes it);
both sides of STS and pair classification get "Retrieve semantically similar text", of bitext mining "Retrieve parallel sentences";
documents of retrieval and reranking are bare. For any other task it is the prompt in the task's own metadata in mteb, else mteb's for
its kind of task; `instructions` overrides any of them by the task's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from mteb.abstasks.abstask import get_abstask_prompt
from mteb.models import ModelMeta
from mteb.models.model_meta import ScoringFunction
from mteb.similarity_functions import cos_sim, pairwise_cos_sim
from openai import OpenAI

SIMILAR = "Retrieve semantically similar text"
PARALLEL = "Retrieve parallel sentences"
BOTH_SIDES: Mapping[str, str] = {"STS": SIMILAR, "PairClassification": SIMILAR, "BitextMining": PARALLEL}
"""Official instructions by task type; in these tasks no side is a document."""

TEXTS_A_REQUEST = 32
REQUESTS_AT_ONCE = 8


class ServiceEncoder:
    """mteb's `EncoderProtocol` over `POST /v1/embeddings` of the service at `url`.

    `model` is the served one unless named; `dimensions` cuts vectors (they come back normalised). Texts over the service's limit are
    cut at their end, as mteb's own models do; an empty one is sent as a space, since the API refuses it. The key of a guarded service
    is `api_key`; the OpenAI SDK retries what can be. Raises its exceptions: `openai.APIStatusError` for a refusal, and
    `openai.APIConnectionError` if nobody answers.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        api_key: str | None = None,
        dimensions: int | None = None,
        instructions: Mapping[str, str] | None = None,
        name: str | None = None,
        client: OpenAI | None = None,
    ) -> None:
        base = url.rstrip("/").removesuffix("/v1") + "/v1"
        self._client = client or OpenAI(base_url=base, api_key=api_key or "none")
        served = next(iter(self._client.models.list())) if model is None else self._client.models.retrieve(model)
        said = served.model_extra or {}
        self._model = served.id
        self._dimensions = dimensions
        self._instructions = dict(instructions or {})
        width = dimensions or said.get("dimensions")
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                # Not the model's own name: mteb would give its published results out as this service's.
                "name": name or f"embedserve/{served.id.rpartition('/')[2]}{f'-{dimensions}d' if dimensions else ''}",
                "revision": said.get("revision") or "served",
                "embed_dim": width,
                "max_tokens": said.get("max_input_tokens"),
                "framework": ["API"],
                "similarity_fn_name": ScoringFunction.COSINE,
                "use_instructions": True,
            }
        )

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **_: Any,
    ) -> npt.NDArray[np.float32]:
        """Vectors of all texts (`batch["text"]`) of `inputs`, float32 `[texts, dimensions]`, in their order."""
        texts = [text or " " for batch in inputs for text in batch["text"]]
        parts = [texts[begin : begin + TEXTS_A_REQUEST] for begin in range(0, len(texts), TEXTS_A_REQUEST)]
        asked = partial(self._embed, instruction=self.instruction(task_metadata, prompt_type))
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:
            return np.concatenate(list(threads.map(asked, parts)))

    def instruction(self, task_metadata: Any, prompt_type: Any = None) -> str | None:
        """The task in words for these texts of a task; None for bare ones. `prompt_type` is mteb's, None where sides are alike."""
        side = None if prompt_type is None else str(getattr(prompt_type, "value", prompt_type))
        own = self._instructions.get(task_metadata.name)
        if task_metadata.type in BOTH_SIDES:
            return own or BOTH_SIDES[task_metadata.type]
        if side == "document":
            return None
        prompt = task_metadata.prompt
        if isinstance(prompt, Mapping):
            prompt = prompt.get(side or "query")
        return own or prompt or get_abstask_prompt(task_metadata.name) or None

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines of all with all, `[n, m]`."""
        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines of pairs, `[n]`."""
        return pairwise_cos_sim(embeddings1, embeddings2)

    def _embed(self, texts: Sequence[str], instruction: str | None) -> npt.NDArray[np.float32]:
        more: dict[str, Any] = {"truncate": "end"}
        if instruction:
            more["instruction"] = instruction
        if self._dimensions is not None:
            more["dimensions"] = self._dimensions
        reply = self._client.embeddings.create(model=self._model, input=list(texts), extra_body=more)
        return np.array([each.embedding for each in reply.data], np.float32)
