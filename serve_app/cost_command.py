"""`embedserve cost`: where its figures come from."""

from __future__ import annotations

import msgspec

from serve_app.cluster.instance import get_json
from serve_app.telemetry.cost import Consumption
from serve_app.telemetry.prices import Pricing
from serve_app.telemetry.usage import UsageReport, usage_report, what_if


def running_report(url: str, prices: Pricing | None, api_key: str | None = None) -> UsageReport:
    """The report of the service at `url`, at its own prices or at `prices`. Raises ValueError if it gives none.

    Where there are API keys, `api_key` must be one with `admin`.
    """
    address = url.rstrip("/").removesuffix("/v1") + "/v1/usage"
    status, body = get_json(address, timeout=30, api_key=api_key)
    if status in (401, 403):
        raise ValueError(f"{address} wants an API key with 'admin': put it into EMBEDSERVE_API_KEY")
    if status != 200:
        raise ValueError(f"{address} answers {status}" if status else f"Nobody answers at {address}")
    try:
        report = msgspec.convert(body, UsageReport)
    except msgspec.ValidationError as error:
        if body.get("object") == "key_usage":
            raise ValueError(f"{address} wants an API key with 'admin': this one sees only its own usage") from None
        raise ValueError(f"{address} answers something else than a report: {error}") from None
    if prices is None:
        return report
    seconds = {device.device: device.seconds for device in report.devices}
    used = Consumption(
        report.requests, report.inputs, report.prompt_tokens, seconds, report.replica_seconds, report.busy_seconds
    )
    return usage_report(used, prices)


def imagined_report(
    prices: Pricing,
    tokens_per_second: float,
    tokens_per_request: float,
    gpus: int = 1,
    utilisation: float | None = None,
    qps: float | None = None,
) -> UsageReport:
    """The report of an hour at this load: `utilisation`, or `qps` requests per second, or full load.

    Raises ValueError for more requests than the GPUs can do.
    """
    if qps is not None:
        utilisation = qps * tokens_per_request / (gpus * tokens_per_second)
        if utilisation > 1:
            raise ValueError(
                f"{qps:g} requests/s of {tokens_per_request:g} tokens are more than {gpus} GPU(s) of "
                f"{tokens_per_second:g} tokens/s can do"
            )
    return usage_report(what_if(tokens_per_second, utilisation or 1.0, tokens_per_request, gpus), prices)
