"""One settings tree: every default is stated here, once."""

from serve_app.config.access import AuthSettings, LedgerSettings
from serve_app.config.operating import AutoscalingSettings, CostSettings, LogSettings, MetricsSettings
from serve_app.config.serving import AdmissionSettings, BatchSettings, CacheSettings, DispatchSettings, LimitSettings
from serve_app.config.settings import EMBEDDER_LIVE, GATEWAY_LIVE, Settings, default_tokens

__all__ = [
    "EMBEDDER_LIVE",
    "GATEWAY_LIVE",
    "AdmissionSettings",
    "AuthSettings",
    "AutoscalingSettings",
    "BatchSettings",
    "CacheSettings",
    "CostSettings",
    "DispatchSettings",
    "LedgerSettings",
    "LimitSettings",
    "LogSettings",
    "MetricsSettings",
    "Settings",
    "default_tokens",
]
