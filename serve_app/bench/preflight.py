"""Before anything is measured: does every target answer, with what model, and how does it count tokens?"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import orjson

from serve_app.bench.connection import Answer, Pool
from serve_app.bench.dialects import ReplyError
from serve_app.bench.target import Target
from serve_app.bench.workloads import SALTS, WORKLOADS

SECONDS = 120.0
REQUESTS = 8
"""Of each workload; the same texts for all targets. They are of numbers and a salt that no round uses."""
FIRST = 900_000_000


class PreflightError(Exception):
    """A target that can't be measured; the message says which and why."""


@dataclass(frozen=True)
class Checked:
    """A target with its model, the width of its vectors, and its tokens for the same texts, by workload."""

    target: Target
    width: int
    tokens: dict[str, int]
    version: str = ""


def check(target: Target, workloads: list[str], seed: int) -> Checked:
    """Ask for models and for a few vectors. Raises `PreflightError`."""
    return asyncio.run(_check(target, workloads, seed))


async def _check(target: Target, workloads: list[str], seed: int) -> Checked:
    pool = Pool(target.address, most=4)
    try:
        target = target if target.model else target.called(await _model(target, pool))
        version = await _version(target, pool)
        tokens, width = {}, 0
        for name in workloads:
            requests = 1 if name == "bulk" else REQUESTS
            tokens[name] = 0
            for number in range(FIRST, FIRST + requests):
                content = WORKLOADS[name].content(number, seed, SALTS - 1)
                left = len(content.texts)
                for body in target.dialect.bodies(target.model, content):
                    inputs = min(left, target.dialect.most_inputs)
                    left -= inputs
                    request = target.address.frame(body, target.dialect.path, target.headers)
                    answer = await _answer(target, pool, request)
                    if answer.status != 200:
                        raise PreflightError(_refusal(target, answer, name))
                    try:
                        width = target.dialect.vectors(answer.body, inputs).shape[1]
                    except ReplyError as error:
                        raise PreflightError(f"{target.name}: a wrong reply to workload {name}: {error}") from error
                    tokens[name] += target.dialect.tokens(answer.body)
        return Checked(target, width, tokens, version)
    finally:
        pool.close()


async def _answer(target: Target, pool: Pool, request: bytes) -> Answer:
    try:
        async with asyncio.timeout(SECONDS):
            return await pool.exchange(request)
    except (OSError, TimeoutError) as error:
        why = f"no answer in {SECONDS:g} s" if isinstance(error, TimeoutError) else str(error)
        raise PreflightError(f"{target.name}: {target.url} can't be reached: {why}") from error


async def _model(target: Target, pool: Pool) -> str:
    """The first one that `GET /v1/models` lists."""
    if target.dialect.name == "openai":
        answer = await _answer(target, pool, target.address.frame_get("/v1/models", target.headers))
        if answer.status == 200:
            try:
                return str(orjson.loads(answer.body)["data"][0]["id"])
            except (ValueError, KeyError, TypeError, IndexError):
                pass
    raise PreflightError(f"{target.name} doesn't say which model it serves: add model=ID to the target")


async def _version(target: Target, pool: Pool) -> str:
    """What `GET /version` says, where there is such a thing; asked of targets without a key only, which hosted ones aren't."""
    if target.key:
        return ""
    answer = await _answer(target, pool, target.address.frame_get("/version"))
    try:
        return str(orjson.loads(answer.body)["version"])[:40] if answer.status == 200 else ""
    except (ValueError, KeyError, TypeError):
        return ""


def _refusal(target: Target, answer: Answer, workload: str) -> str:
    # What comes with a 401 or 403 may repeat a part of the key.
    detail = "" if answer.status in (401, 403) else f": {answer.body[:300].decode(errors='replace')}"
    if target.key:
        detail = detail.replace(target.key, "…")
    return f"{target.name}: status {answer.status} to workload {workload}{detail}"
