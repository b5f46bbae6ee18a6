"""What a request is and what it becomes, whatever dialect it came in; what it may ask for, and of which model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

TokenIds = npt.NDArray[np.int32]
Vectors = npt.NDArray[np.float32]

DEMO_MODEL_ID = "embedserve/demo"
"""The checkpoint this package makes itself, so that everything runs out of the box."""


TOKEN_VALUES = 8 * 2**20
"""Numbers of a reply with the vectors of all tokens, unless a setting says otherwise: about 100 MB of JSON."""

MOST_TOKEN_VALUES = 48 * 2**20
"""And at most: one input's travel in one message, of 192 MiB then, which is within gRPC's limit as `embedserve env` sets it."""


class Priority(IntEnum):
    """Interactive inputs overtake bulk inputs, which age so that they don't starve."""

    INTERACTIVE = 0
    BULK = 1


class Truncate(StrEnum):
    """What to do with an input over the length limit: refuse it, or drop tokens from one of its ends."""

    NONE = "none"
    START = "start"
    END = "end"


class OutputType(StrEnum):
    """What the numbers of a vector become on their way to the client; `api.quantise` defines each."""

    FLOAT = "float"
    FLOAT16 = "float16"
    INT8 = "int8"
    UINT8 = "uint8"
    BINARY = "binary"
    UBINARY = "ubinary"


class Output(IntEnum):
    """What an input wants back from the engine: one pooled vector, or the vectors of all its tokens."""

    POOLED = 0
    TOKENS = 1


class Stage(StrEnum):
    """The stages of a request: metric labels, reply headers, log fields and report columns all use these words."""

    TOKENIZE = "tokenize"
    QUEUE = "queue"
    INFERENCE = "inference"
    RENDER = "render"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for. Beyond it the request is refused before any device work."""

    max_input_tokens: int = 8192
    max_inputs: int = 2048
    max_request_tokens: int = 300_000
    max_body_bytes: int = 8 * 1024 * 1024
    max_cohere_texts: int = 96
    max_token_vectors: int | None = None

    def token_vectors(self, dimensions: int) -> int:
        """The most tokens of a request for the vectors of all tokens, each of so many `dimensions`."""
        most = MOST_TOKEN_VALUES // dimensions
        return TOKEN_VALUES // dimensions if self.max_token_vectors is None else min(self.max_token_vectors, most)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What clients may know of the model behind the service.

    `prompts` are the texts that can be put before an input, by name: the checkpoint's own and those of the settings.
    `aliases` are other names that it answers to.
    `dtype` is what it computes in, `device` "cpu" or "gpu", and a batch there holds at most `max_batch_tokens` and `max_batch_inputs`;
    None where that isn't known.
    """

    id: str
    dimensions: int
    max_input_tokens: int
    revision: str | None = None
    created: int = 0
    demo: bool = False
    dtype: str | None = None
    device: str | None = None
    max_batch_tokens: int | None = None
    max_batch_inputs: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict, hash=False)
    aliases: tuple[str, ...] = ()


Quota: TypeAlias = tuple[str, int, int, float]
"""What is left of a caller's limit: its kind (`requests`, `tokens`), the limit, how much remains, seconds until all is there again."""


class Grant(Protocol):
    """What the caller of a request may do here."""

    @property
    def name(self) -> str:
        """The name of its API key: no secret."""

    @property
    def admin(self) -> bool:
        """Whether it may see what others have used."""

    def allows(self, model: str) -> bool:
        """Whether it may use the model with this id."""

    def permit(self, job: EmbedJob) -> None:
        """Fit a job to what the caller may ask for. Raises `ModelNotAllowedError`."""

    async def charge(self, tokens: int) -> None:
        """Take a job's tokens off what is left. Raises `RateLimitedError`, `TooManyTokensError` if no wait would help."""


@dataclass(slots=True)
class EmbedJob:
    """One request, whatever dialect it came in. Dialects that must remember more to write their reply derive from it.

    Exactly one of `texts` and `token_ids` is set. `prompt`, for texts only, precedes each of them as it is. `timeout_seconds` is what
    the caller asked for, None if nothing; it counts from `arrived_at`, in `time.monotonic` seconds, None for now. `truncated` is how
    many inputs were over the limit and have lost tokens because `truncate` allows it: known once they are tokenized. `grant` is
    what the caller may do here, None where everybody may do everything.
    """

    model: str
    texts: list[str] | None = None
    token_ids: list[TokenIds] | None = None
    prompt: str | None = None
    truncate: Truncate = Truncate.NONE
    truncate_to: int | None = None
    dimensions: int | None = None
    output: Output = Output.POOLED
    priority: Priority = Priority.INTERACTIVE
    timeout_seconds: float | None = None
    arrived_at: float | None = None
    truncated: int = 0
    grant: Grant | None = None

    @property
    def tenant(self) -> str:
        """The name of the caller's API key, "" without one: nothing is shared between tenants unless a setting says so."""
        return self.grant.name if self.grant is not None else ""

    def __len__(self) -> int:
        return len(self.texts if self.texts is not None else self.token_ids or ())


@dataclass(slots=True)
class EmbedResult:
    """A job's vectors, in the order of its inputs: float32 `[inputs, dimensions]`, L2-normalised, with the true token count."""

    vectors: Vectors
    prompt_tokens: int
    stage_seconds: dict[Stage, float] = field(default_factory=dict)

    @property
    def inputs(self) -> int:
        """How many inputs it is the result of."""
        return len(self.vectors)


@dataclass(slots=True)
class TokenVectors(EmbedResult):
    """The vectors of all tokens of a job, input after input: float32 `[sum(lengths), hidden]`, as the model's last norm leaves them,
    not L2-normalised. `lengths` is int32 `[inputs]`."""

    lengths: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    @property
    def inputs(self) -> int:
        """How many inputs it is the result of."""
        return len(self.lengths)


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A text's tokens. `offsets` are where each begins and ends in `text`, in characters; two tokens can share one. `added` names
    those, by their index, that the tokenizer added to the text and that have no place in it."""

    text: str
    ids: list[int]
    offsets: list[tuple[int, int]]
    added: dict[int, str]
