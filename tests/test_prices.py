"""The price book: what is in it, what is refused, and how settings override it."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.telemetry.prices import BUILT_IN, DevicePrice, PriceBook, read_price_book

ROOT = Path(__file__).parents[1]
SMALL = """
default_gpu: mine
default_cpu: core
devices:
  mine: {usd_per_hour: 2, date: 2026-01-02, source: an invoice}
  core: {usd_per_hour: 0.05, date: 2026-01-02, source: an invoice}
hosted:
  theirs: {usd_per_million_tokens: 0.1, token_factor: 1.5, date: 2026-01-02, source: their page}
"""


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return read_price_book()


def test_the_one_in_deploy_is_the_packaged_one() -> None:
    assert (ROOT / "deploy" / "prices.yaml").resolve() == BUILT_IN.resolve()


@pytest.mark.parametrize(
    ("offer", "usd"),
    [
        ("openai:text-embedding-3-small", 0.02),
        ("openai:text-embedding-3-large", 0.13),
        ("cohere:embed-v4.0", 0.12),
        ("alibaba:text-embedding-v4", 0.07),
        ("deepinfra:qwen3-embedding-0.6b", 0.002),
    ],
)
def test_hosted_prices(book: PriceBook, offer: str, usd: float) -> None:
    assert book.hosted[offer].usd_per_million_tokens == usd


@pytest.mark.parametrize(("device", "usd"), [("runpod:h200", 4.59), ("aws:a10g", 1.006), ("aws:h100", 6.88)])
def test_device_prices(book: PriceBook, device: str, usd: float) -> None:
    assert book.devices[device].usd_per_hour == usd


def test_every_price_has_its_date_and_source(book: PriceBook) -> None:
    for entry in (*book.devices.values(), *book.hosted.values()):
        assert entry.date.year >= 2026
        assert len(entry.source) > 8


def test_another_book(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(SMALL)
    pricing = read_price_book(file).pricing()
    assert pricing.devices == {"gpu": DevicePrice("mine", 2.0), "cpu": DevicePrice("core", 0.05)}
    assert pricing.hosted["theirs"].usd_per_million_of_ours == pytest.approx(0.15)


def test_overrides(book: PriceBook) -> None:
    pricing = book.pricing(gpu="aws:a10g", cpu_usd_per_hour=0.03, token_factor=1.78)
    assert pricing.devices == {"gpu": DevicePrice("aws:a10g", 1.006), "cpu": DevicePrice("aws:vcpu", 0.03)}
    assert {price.token_factor for price in pricing.hosted.values()} == {1.78}
    assert book.pricing(gpu_usd_per_hour=3).devices["gpu"] == DevicePrice("runpod:h200", 3)
    assert book.pricing(gpu="my own", gpu_usd_per_hour=0.4).devices["gpu"] == DevicePrice("my own", 0.4)


def test_an_unknown_gpu_needs_its_price(book: PriceBook) -> None:
    with pytest.raises(ValueError, match=r"'h300' isn't in the price book.*aws:a10g"):
        book.pricing(gpu="h300")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("usd_per_hour: 2", "usd_per_hour: 0", "devices.mine.usd_per_hour"),
        ("usd_per_hour: 2", "usd_per_hour: .inf", "devices.mine.usd_per_hour"),
        ("usd_per_million_tokens: 0.1", "usd_per_million_tokens: cheap", "hosted.theirs.usd_per_million_tokens"),
        ("token_factor: 1.5", "token_factor: -1", "hosted.theirs.token_factor"),
        ("token_factor: 1.5", "tokens_factor: 1.5", "hosted.theirs.tokens_factor"),
        ("source: their page", "source: ''", "hosted.theirs.source"),
        ("date: 2026-01-02, source: their page", "source: their page", "hosted.theirs.date"),
        ("default_gpu: mine", "default_gpu: ours", "'ours' isn't among the devices"),
        ("theirs:", '"a\\"b":', "hosted"),
        ("hosted:", "hosted: [", "can't be read"),
    ],
)
def test_what_is_refused_and_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    file = tmp_path / "prices.yaml"
    assert old in SMALL
    file.write_text(SMALL.replace(old, new))
    with pytest.raises(ValueError, match=r"prices\.yaml") as raised:
        read_price_book(file)
    assert named in str(raised.value)


def test_a_book_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"/no/such\.yaml can't be read"):
        read_price_book("/no/such.yaml")
