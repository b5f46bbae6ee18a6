"""The measured part of `loadtest.bench_engine`: contestants in turn, round by round, case by case."""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from loadtest.engine_cases import Case, Cases
from loadtest.engine_ceilings import synchronize
from loadtest.engine_contestants import (
    Contestant,
    Ours,
    Transformers,
    best_batch_size,
    in_dtype,
    lowest_cosine,
    ours,
    qwen3,
    sentence_transformers,
)
from loadtest.engine_datasheets import data_sheet
from loadtest.engine_failures import Failures
from loadtest.engine_floor import floor_of, forward_flops
from serve_app.bench.statistics import spread
from serve_app.engine.engine import Engine
from serve_app.engine.model_config import ModelConfig
from serve_app.engine.tokenizer import Tokenizer
from serve_app.engine.weights import Weights

_COSINE_TEXTS, _COSINE_TOKENS = 8, 2048
_LATENCY_CALLS = 3, 20  # at least and at most
_FROM_IDS = ", from ids"


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call that ends with its result on the host."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


class Rounds:
    """Holds the contestants; `weights` are float32. Those that can't be made are left out: `failures` says why."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        tokenizer: Tokenizer,
        folder: Path,
        dtypes: list[str],
        ceilings: dict[str, Any],
        options: argparse.Namespace,
    ) -> None:
        self._config, self._tokenizer, self._ceilings, self._options = config, tokenizer, ceilings, options
        self._device = device = weights.embedding.device
        self.device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        self._sizes = options.batch_sizes or ([8, 32, 128, 512] if device.type == "cuda" else [1, 4, 16])
        self._dense = next((dtype for dtype in dtypes if dtype in ("float32", "bfloat16")), "bfloat16")
        shared = in_dtype(weights, getattr(torch, self._dense))
        self.failures = Failures()
        self._engines: dict[str, Engine] = {}
        for dtype in dtypes:
            with self.failures.noted(f"ours {dtype}"):
                given = weights if dtype == "float32" else shared  # which are the same, or rounded already
                self._engines[dtype] = ours(config, given, dtype, options.batch_tokens)
        self._exact = self._engines.get("float32") or ours(config, weights, "float32", options.batch_tokens)
        self._contestants: dict[str, Contestant] = {
            f"ours {name}": Ours(engine, tokenizer) for name, engine in self._engines.items()
        }
        with self.failures.noted("transformers"):
            self._contestants["transformers"] = Transformers(qwen3(config, shared, "sdpa"), tokenizer)
        flash = device.type == "cuda" and self._dense != "float32" and find_spec("flash_attn") is not None
        for attention in ["flash_attention_2", "sdpa"] if flash else ["sdpa"]:
            if "sentence-transformers" not in self._contestants:
                with self.failures.noted(f"sentence-transformers, {attention}"):
                    theirs = sentence_transformers(qwen3(config, shared, attention), folder)
                    if theirs is not None:
                        theirs(["one", "and another"], 2)
                        self._contestants["sentence-transformers"] = theirs
        self._layers = [[one.qkv, one.output, one.gate_up, one.down] for one in shared.layers]
        self._memory: dict[str, int] = {}

    def run(self, case: Case) -> dict[str, Any]:
        """All rounds of one case, by engines that have seen no other: one that looked for shared prefixes in vain does so rarely.

        A contestant that fails in this case has no row; its failure is noted in the result.
        """
        for engine in self._engines.values():
            engine.prefixes.clear()
        failures = Failures()
        sizes = self._best_sizes(case.draw(), failures)
        cosines = self._cosines(case, sizes, failures)
        with failures.noted("products"):
            products = self._products(case.lengths)
            products()
        taken: dict[str, list[float]] = {}
        for number in range(self._options.rounds):
            runs = self._runs(case.draw(), sizes)
            if "products" not in failures:
                runs["products"] = products
            names, turn = list(runs), number % len(runs)
            for name in names[turn:] + names[:turn]:
                if name not in failures:
                    with failures.noted(name):
                        taken.setdefault(name, []).append(self._timed(name, runs[name]))
        print(f"done      {case.name}: {len(case.lengths)} inputs, {case.tokens} tokens", flush=True)
        complete = {name: taken[name] for name in runs if name not in failures}
        rows = [self._row(name, case, times, complete) for name, times in complete.items()]
        for row in rows:
            row |= {"lowest_cosine": cosines.get(row["name"]), "batch_size": sizes.get(row["name"]) or None}
        return {
            "name": case.name,
            "inputs": len(case.lengths),
            "tokens": case.tokens,
            "lengths": case.lengths,
            "results": rows,
            "failed": failures.of,
        }

    def latency(self, length: int) -> dict[str, dict[str, float]]:
        """Seconds for one text alone."""
        text = Cases(self._tokenizer, self._options.seed).uniform(length, length).draw()
        found = {}
        for name, run in self._contestants.items():
            with self.failures.noted(f"{name}, one text"):
                run(text, 1)
                taken: list[float] = []
                fewest, most = _LATENCY_CALLS
                while len(taken) < fewest or (len(taken) < most and sum(taken) < self._options.seconds):
                    taken.append(seconds(partial(run, text, 1)))
                found[name] = spread(taken)
        return found

    def memory(self) -> dict[str, int]:
        """Peak bytes: on CUDA of each contestant's tensors beside the weights of all, on CPU of the whole process."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return dict(self._memory) if self._device.type == "cuda" else {"process": peak}

    def _best_sizes(self, texts: list[str], failures: Failures) -> dict[str, int]:
        """The batch size of each contestant, 0 for those that choose it themselves."""
        sizes: dict[str, int] = {}
        for name, run in self._contestants.items():
            with failures.noted(name):
                sizes[name] = 0 if isinstance(run, Ours) else best_batch_size(run, texts, self._sizes, seconds)
        return sizes

    def _runs(self, texts: list[str], sizes: dict[str, int]) -> dict[str, Callable[[], object]]:
        """What each contestant does in a round; with `--ids`, our engines also without tokenizing."""
        runs: dict[str, Callable[[], object]] = {}
        ids = self._tokenizer.encode_batch(texts) if self._options.ids else None
        for name, size in sizes.items():
            run = self._contestants[name]
            runs[name] = partial(run, texts, size)
            if ids is not None and isinstance(run, Ours):
                runs[f"{name}{_FROM_IDS}"] = partial(run.engine.encode, ids)
        return runs

    def _timed(self, name: str, run: Callable[[], object]) -> float:
        cuda = self._device.type == "cuda"
        if cuda:
            before = torch.cuda.memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        synchronize(self._device)
        taken = seconds(run)
        if cuda:
            peak = torch.cuda.max_memory_allocated(self._device) - before
            self._memory[name] = max(self._memory.get(name, 0), peak)
        return taken

    def _cosines(self, case: Case, sizes: dict[str, int], failures: Failures) -> dict[str, float]:
        """Lowest cosine of each contestant to our float32 vectors, on a few texts of the case."""
        texts, tokens = [], 0
        for text, length in zip(case.draw(), case.lengths, strict=True):
            if texts and (len(texts) == _COSINE_TEXTS or tokens + length > _COSINE_TOKENS):
                break
            texts.append(text)
            tokens += length
        found: dict[str, float] = {}
        with failures.noted("float32, to compare with"):
            expected = Ours(self._exact, self._tokenizer)(texts, 1)
            for name, size in sizes.items():
                with failures.noted(name):
                    found[name] = lowest_cosine(self._contestants[name](texts, size), expected)
        return found

    def _row(self, name: str, case: Case, times: list[float], all_times: dict[str, list[float]]) -> dict[str, Any]:
        dtype = name.removeprefix("ours ").removesuffix(_FROM_IDS) if name.startswith("ours") else self._dense
        engine: Engine = self._engines.get(dtype, self._exact)
        ceiling = self._ceilings["flops_per_second"][dtype]["best"]
        passes = len(list(engine.batches(case.lengths)))
        floor = floor_of(self._config, case.lengths, dtype, ceiling, self._ceilings["copy_bytes_per_second"], passes)
        flops = forward_flops(self._config, case.lengths)
        sheet = data_sheet(self.device_name)
        peak = sheet.flops.get(dtype) if sheet else None
        return {
            "name": name,
            "dtype": dtype,
            "tokens_per_second": spread([case.tokens / taken for taken in times]),
            "inputs_per_second": spread([len(case.lengths) / taken for taken in times]),
            "first_over_it": spread(
                [taken / first for taken, first in zip(times, next(iter(all_times.values())), strict=True)]
            ),
            "mfu_of_ceiling": spread([flops / taken / ceiling for taken in times]),
            "mfu_of_data_sheet": spread([flops / taken / peak for taken in times]) if peak else None,
            "floor_seconds": floor.seconds,
            "over_floor": spread([taken / floor.seconds for taken in times]),
            "seconds": times,
        }

    def _products(self, lengths: list[int]) -> Callable[[], None]:
        """The linear layers' products at the engine's batches."""
        engine = next(iter(self._engines.values()), self._exact)
        batches = [sum(lengths[i] for i in batch) for batch in engine.batches(lengths)]
        widest = max(batches)
        ins = [torch.randn(widest, w.shape[1], device=self._device).to(w.dtype) for w in self._layers[0]]
        outs = [torch.empty(widest, w.shape[0], device=self._device, dtype=w.dtype) for w in self._layers[0]]

        @torch.inference_mode()
        def run() -> None:
            for rows in batches:
                for layer in self._layers:
                    for w, x, out in zip(layer, ins, outs, strict=True):
                        torch.mm(x[:rows], w.t(), out=out[:rows])
            synchronize(self._device)

        return run
