"""The root, and what goes wrong where no client looks: while a model loads, in the engine, between gateways and replicas."""

from __future__ import annotations


class EmbedserveError(Exception):
    """Root of every error this package raises on purpose."""


class CheckpointError(EmbedserveError):
    """The folder or repository isn't a Qwen3 embedding checkpoint that this engine can serve."""


class SelfCheckError(CheckpointError):
    """The model was loaded and doesn't compute what it should; `said` names no paths, so that services may show it."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.said = said

    def __str__(self) -> str:
        return f"the model fails its self-check, so it isn't served: {self.said}"


class EngineError(EmbedserveError):
    """A batch failed in the engine; its inputs get this error, no others do."""


class NonFiniteError(EngineError):
    """The model produced NaN or infinity; the vector is withheld."""


class EngineDeadError(EmbedserveError):
    """The engine thread is gone; this replica can't compute any more and must be replaced."""


class StaleReplicaError(EmbedserveError):
    """The chunk came from a gateway of another version of the application, or of another model."""


class ReplicaOccupiedError(EmbedserveError):
    """The replica carries another chunk that asked to be alone; try elsewhere or a little later."""
