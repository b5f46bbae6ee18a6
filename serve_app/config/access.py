"""Who may use the service, and where it is kept what they used."""

from __future__ import annotations

from pydantic import Field

from serve_app.config.section import Section


class AuthSettings(Section):
    """API keys and what counts for all of them. Without any key the service is open to everybody who reaches it."""

    keys_file: str | None = Field(
        None,
        description="YAML or JSON file with the hashes and limits of API keys, on every gateway's node; read again when it changes",
    )
    key_hash: str | None = Field(
        None,
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="one more key, named default, without limits; `embedserve up` sets it from EMBEDSERVE_API_KEY",
    )
    metrics_public: bool = Field(False, description="GET /metrics needs no key even where there are keys")
    redis_url: str | None = Field(
        None,
        pattern=r"^(rediss?|unix)://",
        description="Redis in which the limits of keys are counted for all gateways; unset: each gateway has its share of them",
    )

    @property
    def on(self) -> bool:
        """Whether requests need a key."""
        return self.keys_file is not None or self.key_hash is not None


class LedgerSettings(Section):
    """Where what each key has used outlasts the cluster."""

    path: str | None = Field(
        None, description="SQLite file, for gateways on one machine; unset: as long as the counters live"
    )
    redis_url: str | None = Field(
        None, pattern=r"^(rediss?|unix)://", description="Redis instead, for gateways on several machines"
    )
