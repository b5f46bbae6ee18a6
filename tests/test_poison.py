"""An input that kills real replicas is found and refused; everybody else is served."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np
import openai
import pytest

from loadtest.emulated import vector_of, vectors_of_texts
from loadtest.running import running
from serve_app.cluster.instance import free_port
from serve_app.engine.demo import demo_checkpoint
from serve_app.engine.tokenizer import Tokenizer

pytestmark = pytest.mark.cluster
DEADLY = 37
CLIENTS = 8
TEXTS = [f"text number {n} of those that share chunks with an input that kills replicas" for n in range(40)]

SETTINGS = {
    "replicas": 3,
    "gateways": 2,
    "num_cpus": 0.1,
    "device.inputs_per_second": 300,
    "device.deadly_length": DEADLY,
}


def token_ids(length: int) -> list[int]:
    """An input of so many tokens once `<|endoftext|>` is behind it."""
    return [100 + n % 50 for n in range(length - 1)]


async def test_the_culprit_is_refused_after_three_deaths_and_all_others_are_served(tmp_path: Path) -> None:
    wanted = vectors_of_texts(TEXTS)
    tokenizer = Tokenizer.read(demo_checkpoint())
    assert DEADLY not in map(len, tokenizer.encode_batch(TEXTS))
    port = free_port()
    command = [sys.executable, "-m", "loadtest.emulated_up", "--port", str(port)]
    for key, value in SETTINGS.items():
        command += ["--set", f"{key}={value}"]
    answered = 0
    stop = asyncio.Event()

    with running(command, port, tmp_path / "up.log") as service:
        before = {process.pid for process in service.groups()["embedder"]}

        async def client(number: int) -> None:
            nonlocal answered
            async with openai.AsyncOpenAI(
                base_url=f"{service.url}/v1", api_key="EMPTY", max_retries=0, timeout=120
            ) as api:
                n = number
                while not stop.is_set():
                    rows = [(n + k) % len(TEXTS) for k in range(5)]
                    reply = await api.embeddings.create(model="demo", input=[TEXTS[row] for row in rows])
                    got = np.array([item.embedding for item in reply.data], np.float32)
                    np.testing.assert_allclose(got, wanted[rows], atol=1e-6)
                    answered += 1
                    n += CLIENTS

        clients = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="EMPTY", timeout=120) as api:
            harmless = [token_ids(DEADLY - 1), token_ids(DEADLY + 1)]
            reply = await api.embeddings.create(model="demo", input=harmless)
            assert len(reply.data) == 2
            with pytest.raises(openai.UnprocessableEntityError) as refused:
                await api.embeddings.create(model="demo", input=[harmless[0], token_ids(DEADLY), harmless[1]])
            error = refused.value
            assert (error.status_code, error.type, error.param, error.code) == (
                422,
                "invalid_request_error",
                "input",
                "input_crashes_replica",
            )
            assert "Input 1 " in error.message
            # Its companions in that request are no culprits.
            reply = await api.embeddings.create(model="demo", input=[harmless[0]])
            hidden = len(reply.data[0].embedding)
            ids = tokenizer.append_end_of_text(np.array(harmless[0], np.int32))
            np.testing.assert_allclose(reply.data[0].embedding, vector_of(ids, hidden), atol=1e-6)
            died = before - {process.pid for process in service.groups()["embedder"]}
            assert 1 <= len(died) <= 3
            at_refusal = answered
            while answered < at_refusal + 20:
                assert not [task for task in clients if task.done()]
                await asyncio.sleep(0.05)
        stop.set()
        assert await asyncio.gather(*clients) == [None] * CLIENTS
