"""The price book: what devices and hosted APIs cost, each price with its source and date, and the few prices chosen from it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

BUILT_IN = Path(__file__).with_name("prices.yaml")
"""The book that comes with the package; `deploy/prices.yaml` is the same file."""

# A name becomes a metric label: short, and of a shape that needs no escaping.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/ -]{0,63}$")]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    date: datetime.date = Field(description="when the source was read")
    source: str = Field(min_length=1)
    note: str = ""
    confidence: Literal["high", "low"] = "high"


class Device(_Entry):
    """One device for one hour: a whole GPU, or a vCPU."""

    usd_per_hour: float = Field(gt=0, allow_inf_nan=False)


class HostedOffer(_Entry):
    """A hosted API. `token_factor`: the vendor's tokens for a text that is one token here."""

    usd_per_million_tokens: float = Field(gt=0, allow_inf_nan=False)
    token_factor: float = Field(1.0, gt=0, allow_inf_nan=False)


class PriceBook(BaseModel):
    """All of it, as in the file; see the comments there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default_gpu: str
    default_cpu: str
    devices: dict[Name, Device]
    hosted: dict[Name, HostedOffer] = Field(min_length=1)

    @model_validator(mode="after")
    def _defaults_are_listed(self) -> PriceBook:
        for name in (self.default_gpu, self.default_cpu):
            if name not in self.devices:
                raise ValueError(f"{name!r} isn't among the devices")
        return self

    def pricing(
        self,
        gpu: str | None = None,
        gpu_usd_per_hour: float | None = None,
        cpu_usd_per_hour: float | None = None,
        token_factor: float | None = None,
    ) -> Pricing:
        """The prices to reckon with: the book's, but for what is given.

        A `gpu` that isn't in the book needs its price. Raises ValueError, with the names there are, if it has none.
        """
        name = gpu or self.default_gpu
        if gpu_usd_per_hour is None:
            if name not in self.devices:
                known = ", ".join(sorted(self.devices))
                raise ValueError(f"{name!r} isn't in the price book: give its price by the hour too, or one of {known}")
            gpu_usd_per_hour = self.devices[name].usd_per_hour
        if cpu_usd_per_hour is None:
            cpu_usd_per_hour = self.devices[self.default_cpu].usd_per_hour
        return Pricing(
            {"gpu": DevicePrice(name, gpu_usd_per_hour), "cpu": DevicePrice(self.default_cpu, cpu_usd_per_hour)},
            {
                offer: HostedPrice(
                    hosted.usd_per_million_tokens,
                    hosted.token_factor if token_factor is None else token_factor,
                    hosted.date.isoformat(),
                    hosted.source,
                )
                for offer, hosted in self.hosted.items()
            },
        )


@dataclass(frozen=True, slots=True)
class DevicePrice:
    """Dollars for an hour of one device, and the device's name in the book."""

    name: str
    usd_per_hour: float


@dataclass(frozen=True, slots=True)
class HostedPrice:
    """Dollars for a million of the vendor's tokens, of which `token_factor` come of one of ours."""

    usd_per_million_tokens: float
    token_factor: float = 1.0
    date: str = ""
    source: str = ""

    @property
    def usd_per_million_of_ours(self) -> float:
        """Dollars for the texts that are a million tokens here."""
        return self.usd_per_million_tokens * self.token_factor


@dataclass(frozen=True, slots=True)
class Pricing:
    """What the arithmetic needs: prices of a `gpu` and a `cpu`, and of the hosted offers by name."""

    devices: Mapping[str, DevicePrice]
    hosted: Mapping[str, HostedPrice]


def read_price_book(path: str | Path | None = None) -> PriceBook:
    """The price book in `path`, or the one that comes with the package.

    Raises ValueError, naming the file and what is wrong in it, also if there is no such file.
    """
    file = Path(path) if path else BUILT_IN
    try:
        return PriceBook.model_validate(msgspec.yaml.decode(file.read_bytes()))
    except ValidationError as error:
        reasons = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'the whole'}: {problem['msg']}" for problem in error.errors()
        )
        raise ValueError(f"The price book {file} can't be used: {reasons}") from None
    except (OSError, msgspec.DecodeError) as error:
        raise ValueError(f"The price book {file} can't be read: {error}") from None
