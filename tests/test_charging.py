"""The walk of a request with an API key: permitted before any work, charged once its tokens are known and before a device has them."""

from __future__ import annotations

import logging

import pytest

from serve_app.cluster import graph
from serve_app.cluster.guarding import OPEN
from serve_app.cluster.ports import Backlog
from serve_app.config import Settings
from serve_app.errors import ModelNotAllowedError, OverloadedError, RateLimitedError, TooManyTokensError
from serve_app.types import EmbedJob, Priority
from tests.test_service import LARGE, Walk


class Recorded:
    """A grant that writes down what it's asked, and raises what it's given."""

    name, admin = "a", False

    def __init__(self, forbidden: Exception | None = None, over: Exception | None = None) -> None:
        self.said: list[object] = []
        self.forbidden, self.over = forbidden, over

    def allows(self, model: str) -> bool:
        return True

    def permit(self, job: EmbedJob) -> None:
        self.said.append("permit")
        job.priority = Priority.BULK
        if self.forbidden:
            raise self.forbidden

    async def charge(self, tokens: int) -> None:
        self.said.append(tokens)
        if self.over:
            raise self.over


async def test_all_tokens_are_charged_once() -> None:
    walk, grant = Walk(), Recorded()
    result = await walk.service.embed(EmbedJob("m", texts=["hello", "you"], grant=grant), "id")
    assert grant.said == ["permit", 8]
    assert result.prompt_tokens == 8
    assert walk.dispatcher.tenants == ["a"], "what is kept for one is never shown to another"


async def test_what_is_not_permitted_is_not_even_tokenized() -> None:
    walk, grant = Walk(), Recorded(forbidden=ModelNotAllowedError("no", "model"))
    with pytest.raises(ModelNotAllowedError):
        await walk.embed(grant=grant)
    assert (grant.said, walk.tokenizer.asked, walk.dispatcher.deadlines) == (["permit"], 0, [])


@pytest.mark.parametrize("error", [RateLimitedError("later", "tokens", 3.0), TooManyTokensError("too many", "input")])
async def test_what_is_over_the_limit_reaches_no_device(error: Exception) -> None:
    walk, grant = Walk(), Recorded(over=error)
    with pytest.raises(type(error)):
        await walk.embed(grant=grant)
    assert (grant.said, walk.tokenizer.asked, walk.dispatcher.deadlines) == (["permit", 5], 1, [])
    assert walk.service.active == 0


async def test_what_is_refused_for_overload_is_not_charged() -> None:
    walk, grant = Walk(), Recorded()
    walk.dispatcher.waiting = Backlog(10_000, 10_000, 1_000.0, 1)
    walk.tokenizer.release.set()
    for text in ("hello", LARGE):
        with pytest.raises(OverloadedError):
            await walk.embed(text, grant=grant)
    assert grant.said == ["permit", "permit"]


async def test_a_job_without_a_grant_is_nobodys() -> None:
    assert EmbedJob("m", texts=["x"]).tenant == ""
    assert EmbedJob("m", texts=["x"], grant=Recorded()).tenant == "a"


@pytest.mark.parametrize(("arguments", "warned"), [({}, True), ({"auth.keys_file": "keys.yaml"}, False)])
def test_an_open_service_says_so_when_it_starts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, arguments: dict[str, str], warned: bool
) -> None:
    monkeypatch.setattr(graph, "configure_logging", lambda _: logging.getLogger("elsewhere"))
    graph.application(Settings.model_validate({"num_gpus": 0, **arguments}))
    assert (OPEN in caplog.text) is warned
