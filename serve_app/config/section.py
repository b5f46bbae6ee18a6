"""What every section of the settings is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Frozen; an unknown field is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
