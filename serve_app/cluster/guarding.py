"""API keys, as the settings want them in a gateway."""

from __future__ import annotations

from serve_app.access.gate import Gate
from serve_app.access.key import ApiKey
from serve_app.access.keys import Keys
from serve_app.access.limiter import Limiter, ShareLimiter
from serve_app.config import AuthSettings, Settings
from serve_app.errors import EmbedserveError
from serve_app.telemetry.key_metrics import KeyMetrics

DEFAULT_KEY = "default"

OPEN = (
    "No API keys are set, so everybody who reaches this machine's ports can use the service. Set auth.keys_file, or "
    "EMBEDSERVE_API_KEY for `embedserve up`; `embedserve keys new NAME` makes a key."
)


class Guarding:
    """The keys and the gate of one gateway. Raises ValueError if the file of keys can't be used."""

    def __init__(self, settings: Settings, application: str, metrics: KeyMetrics) -> None:
        self.keys = keys_of(settings.auth)
        self.gate = Gate(self.keys, limiter_of(settings, application, metrics), settings.gateways, metrics.refused)


def keys_of(auth: AuthSettings) -> Keys:
    """The keys that the settings name. Raises ValueError, saying why, if they can't be read."""
    fixed = [] if auth.key_hash is None else [ApiKey(DEFAULT_KEY, (auth.key_hash,), admin=True)]
    return Keys(fixed, auth.keys_file)


def limiter_of(settings: Settings, application: str, metrics: KeyMetrics) -> Limiter:
    """In Redis where there is one, in this gateway otherwise. Raises `EmbedserveError` without `embedserve[redis]`."""
    own = ShareLimiter(settings.gateways)
    if settings.auth.redis_url is None:
        return own
    try:
        from serve_app.access.redis_limiter import RedisLimiter  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise EmbedserveError("auth.redis_url needs the extra: pip install 'embedserve[redis]'") from error
    return RedisLimiter(settings.auth.redis_url, application, own, metrics.decided_alone)
