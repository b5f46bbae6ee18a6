"""`embedserve cost`: where its figures come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace

import msgspec
import typer

from serve_app.cluster.instance import get_json
from serve_app.telemetry.cost import Consumption
from serve_app.telemetry.prices import DevicePrice, HostedPrice, Pricing, read_price_book
from serve_app.telemetry.usage import UsageReport, usage_report, what_if


@dataclass(frozen=True, slots=True)
class OtherPrices:
    """What the command line gives in place of the service's prices, or of the package's: a price book, and parts of one."""

    book: str | None = None
    gpu: str | None = None
    gpu_usd_per_hour: float | None = None
    token_factor: float | None = None

    def pricing(self) -> Pricing:
        """The book's, the package's if none is named, but for what is given. Raises ValueError as books do."""
        return read_price_book(self.book).pricing(self.gpu, self.gpu_usd_per_hour, token_factor=self.token_factor)

    def over(self, report: UsageReport) -> Pricing:
        """The prices of a service's report, but for what is given; all are the book's where one is named. Raises ValueError."""
        if self.book is not None:
            return self.pricing()
        devices = {each.device: DevicePrice(each.name, each.usd_per_hour) for each in report.devices}
        if self.gpu is not None or self.gpu_usd_per_hour is not None:
            if "gpu" not in devices:
                raise ValueError(
                    "The service has held no GPU, so neither --gpu nor --gpu-usd-per-hour changes its costs"
                )
            devices["gpu"] = replace(self, gpu=self.gpu or devices["gpu"].name).pricing().devices["gpu"]
        hosted = {
            each.offer: HostedPrice(
                each.usd_per_million_tokens / each.token_factor,
                each.token_factor if self.token_factor is None else self.token_factor,
                each.date,
                each.source,
            )
            for each in report.hosted
        }
        return Pricing(devices, hosted)


def check_options(tokens_per_second: float | None, url: str | None, load: Mapping[str, float | None]) -> None:
    """Refuse what would be ignored; `load` are the options that only an imagined service has, by their names.

    Raises `typer.BadParameter`.
    """
    given = [name for name, value in load.items() if value is not None]
    if tokens_per_second is None and given:
        raise typer.BadParameter("needs --tokens-per-second", param_hint=given[0])
    if tokens_per_second is not None and url is not None:
        raise typer.BadParameter("no service is asked with --tokens-per-second", param_hint="--url")
    if {"--utilisation", "--qps"} <= {*given}:
        raise typer.BadParameter("give one of --utilisation and --qps", param_hint="--qps")


def running_report(url: str, other: OtherPrices, api_key: str | None = None) -> UsageReport:
    """The report of the service at `url`, at its own prices but for `other` ones. Raises ValueError if it gives none.

    Where there are API keys, `api_key` must be one with `admin`.
    """
    address = (url if "://" in url else f"http://{url}").rstrip("/").removesuffix("/v1") + "/v1/usage"
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
    if not any(value is not None for value in astuple(other)):
        return report
    seconds = {device.device: device.seconds for device in report.devices}
    used = Consumption(
        report.requests, report.inputs, report.prompt_tokens, seconds, report.replica_seconds, report.busy_seconds
    )
    again = usage_report(used, other.over(report))
    price = again.usd_per_million_tokens
    keys = [replace(row, usd=None if price is None else row.prompt_tokens / 1e6 * price) for row in report.keys]
    return replace(again, keys=keys)


def imagined_report(
    other: OtherPrices,
    tokens_per_second: float,
    tokens_per_request: float,
    gpus: int,
    utilisation: float | None,
    qps: float | None,
) -> UsageReport:
    """The report of an hour at this load: `utilisation`, or `qps` requests per second, or full load.

    Raises ValueError for more requests than the GPUs can do, and for prices that can't be used.
    """
    if qps is not None:
        utilisation = qps * tokens_per_request / (gpus * tokens_per_second)
        if utilisation > 1:
            raise ValueError(
                f"{qps:g} requests/s of {tokens_per_request:g} tokens are more than {gpus} GPU(s) of "
                f"{tokens_per_second:g} tokens/s can do"
            )
    return usage_report(what_if(tokens_per_second, utilisation or 1.0, tokens_per_request, gpus), other.pricing())
