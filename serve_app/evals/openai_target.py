"""Services with OpenAI's embeddings API: ours, which takes instructions, and any other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import openai

from serve_app.evals.encoder import Role
from serve_app.evals.target import OPENAI_URL, Target, TargetError
from serve_app.evals.target_backend import RETRIES, TIMEOUT_SECONDS, Answer, Known

PREFIX = "Instruct: {instruction}\nQuery:"
"""What Qwen3-Embedding's model card puts before a query; nothing follows the colon."""

TOLD = ("revision", "created", "dimensions", "max_input_tokens", "demo")
"""What our `/v1/models` says of a model beside OpenAI's fields; `created` is the checkpoint's date."""

OURS = {"prompts", "max_input_tokens"}
"""By which fields of `/v1/models` our service is known. Others refuse the field `instruction`, or silently ignore it."""

NOT_OPENAI: Any = {"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()}
"""Headers that only OpenAI's own service gets."""

NOT_THE_API = (openai.OpenAIError, ValueError, TypeError, AttributeError)
"""What the client raises, the last three where a reply is a web page or other JSON."""


class OpenAITarget:
    """`openai.OpenAI` with its retries. The field `instruction` goes to our own service only: others refuse what they don't know.

    A text without an instruction goes alone, whatever its role: OpenAI's API has no roles.
    """

    threads: int | None = None
    kept = True

    def __init__(self, target: Target) -> None:
        self._target = target
        self._ours = target.kind == "ours"
        self._model = target.model
        self.batch = target.batch or 64
        # The client takes key, organization and project from the environment: they are OpenAI's, and go to no other server.
        self._client = openai.OpenAI(
            base_url=base_url(target.url),
            api_key=target.key or "none",
            default_headers=None if target.url == OPENAI_URL else NOT_OPENAI,
            max_retries=RETRIES,
            timeout=TIMEOUT_SECONDS,
        )

    def open(self) -> Known:
        """The model is the target's, or the only one that is served. A plain URL may turn out to be another server than ours."""
        if not self._ours and self._model:
            return Known(self._model, {}, [_PREFIXED if self._target.prefix else _NO_INSTRUCTIONS])
        served = self._served()
        notes = []
        if not self._ours:
            notes = [_PREFIXED if self._target.prefix else _NO_INSTRUCTIONS]
        elif not any(found.keys() >= OURS for found in served.values()):
            self._ours = False
            notes = [_NOT_OURS]
        if not self._model and len(served) != 1:
            raise TargetError(
                f"it serves {len(served)} models ({', '.join(served) or 'none'}); say which with model=ID", gone=True
            )
        self._model = self._model or next(iter(served))
        found = served.get(self._model, {})
        if found.get("demo"):
            notes.append("It serves the demo checkpoint, which is for first runs and tests.")
        return Known(self._model, {key: found[key] for key in TOLD if self._ours and found.get(key) is not None}, notes)

    def _served(self) -> dict[str, dict[str, Any]]:
        """What `/v1/models` lists, by id. Where there is no such path and the model is known, nothing."""
        try:
            return {model.id: model.model_dump() for model in self._client.models.list()}
        except NOT_THE_API as error:
            if self._model and isinstance(error, openai.NotFoundError):
                return {}
            raise refusal(error, self._target) from error

    def prepare(self, texts: Sequence[str]) -> None:
        pass

    def before(self, role: Role, instruction: str | None) -> str:
        return PREFIX.format(instruction=instruction) if instruction and (self._ours or self._target.prefix) else ""

    def embed(self, texts: Sequence[str], role: Role, instruction: str | None) -> Answer:
        extra = {"instruction": instruction} if self._ours and instruction else None
        prefix = "" if self._ours else self.before(role, instruction)
        try:
            reply = self._client.embeddings.create(
                model=self._model, input=[prefix + text for text in texts], extra_body=extra
            )
            data = sorted(reply.data, key=lambda item: item.index)
        except NOT_THE_API as error:
            raise refusal(error, self._target) from error
        if len({len(item.embedding) for item in data}) != 1:
            raise TargetError("its vectors aren't all of the same length")
        usage = reply.usage.prompt_tokens if reply.usage else None
        return Answer(np.array([item.embedding for item in data], np.float32), usage)

    def close(self) -> None:
        self._client.close()


def base_url(url: str) -> str:
    """With `/v1` where there is no path; another path is the server's own business."""
    return url if urlsplit(url).path else f"{url}/v1"


def refusal(error: Exception, target: Target) -> TargetError:
    """What to tell the user. The server's own words are shortened, and left out where they may repeat a key."""
    where = target.url
    if isinstance(error, openai.APIConnectionError):
        return TargetError(f"{where} can't be reached ({error.__cause__ or error}). Is it running?", gone=True)
    if not isinstance(error, openai.APIStatusError):
        return TargetError(
            f"{where} answers something else than OpenAI's API ({type(error).__name__}). Is the URL right?", gone=True
        )
    status = error.status_code
    if status in (401, 403):
        key = (
            f"the key in {target.key_env}"
            if target.key_env
            else "a request without a key: name its variable with key-env=NAME"
        )
        return TargetError(f"{where} refuses {key} (status {status})", gone=True)
    body = error.body if isinstance(error.body, dict) else {}
    said = " ".join(str(body.get("message") or "").split())[:300]
    return TargetError(f"{where} answers status {status}{f': {said}' if said else ''}", gone=status == 404)


_NOT_OURS = "It isn't embedserve, so texts went without instructions; as openai:URL with instructions=prefix, Qwen3 models get them."
_NO_INSTRUCTIONS = "OpenAI's API has no field for instructions: texts went without them."
_PREFIXED = (
    "Instructions were put before the text as Qwen3-Embedding's model card does; texts without one had no prompt."
)
