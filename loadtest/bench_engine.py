"""The engine against sentence-transformers and against its own matrix products, in one run on one machine.

python -m loadtest.bench_engine --out report.json

Each contestant gets the same texts, in which every word is one token of the demo tokenizer, and the same
random weights at the shapes of `--size`, in the same memory and dtype:

- `engine`: tokenizing and `Engine.encode`, token-budget batches, no padding;
- `sentence-transformers`: `SentenceTransformer.encode` itself around transformers' own Qwen3, at the best
  of `--batch-sizes`, found by one round of each before the measured rounds;
- `products`: the matrix products of the linear layers alone, all rows in all layers, at the engine's
  batches, into memory already there. It bounds what any engine can do that computes every token, short of
  other kernels.

Every round runs all of them, each round in another order. The vectors of the first two are compared.

`--case queries` is another comparison: see `loadtest/bench_queries.py`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loadtest.bench_queries import measure_queries
from loadtest.bench_report import describe_run, summarize, write_report
from serve_app.engine.demo import demo_checkpoint
from serve_app.engine.device import pick_device, pick_dtype
from serve_app.engine.engine import Engine
from serve_app.engine.model import Model
from serve_app.engine.model_config import QWEN3_EMBEDDING
from serve_app.engine.random_weights import random_weights
from serve_app.engine.tokenizer import Tokenizer
from serve_app.engine.weights import LayerWeights, Weights, named_tensors


def one_token_words(tokenizer: Tokenizer) -> list[str]:
    """Words, each with a space before it, that are one token behind any other."""
    every = (tokenizer.decode(np.array([i], dtype=np.int32)) for i in range(tokenizer.end_of_text_id))
    return [word for word in every if word[:1] == " " and word[1:].isascii() and word[1:].isalpha()]


def draw_texts(options: argparse.Namespace, tokenizer: Tokenizer) -> list[str]:
    """Texts of log-normal token counts (end-of-text included) until there are `--tokens` in all."""
    random = np.random.default_rng(options.seed)
    words = one_token_words(tokenizer)
    texts, tokens = [], 0
    while tokens < options.tokens:
        drawn = random.lognormal(np.log(options.median), options.sigma)
        length = int(np.clip(drawn, options.shortest, options.longest))
        text = "".join(random.choice(words, length - 1))
        assert len(tokenizer.encode(text)) == length
        texts.append(text)
        tokens += length
    return texts


def sentence_transformer(engine: Engine, weights: Weights, folder: Path) -> Any:
    """`SentenceTransformer` of the demo's tokenizer and pipeline, its model computing with the engine's
    weights."""
    from sentence_transformers import SentenceTransformer
    from transformers import Qwen3Config, Qwen3Model

    fields = asdict(engine.config)
    fields["rope_parameters"] = {"rope_type": "default", "rope_theta": fields.pop("rope_theta")}
    config = Qwen3Config(**fields, use_cache=False)
    with torch.device("meta"):
        model = Qwen3Model(config)
    model.load_state_dict(named_tensors(weights, engine.config), assign=True)
    model.rotary_emb = type(model.rotary_emb)(config).to(engine.device)  # no weights of its own to load
    pipeline = SentenceTransformer(str(folder), device=str(engine.device))
    name = "model" if "model" in dict(pipeline[0].named_children()) else "auto_model"
    setattr(pipeline[0], name, model.eval())
    pipeline.max_seq_length = engine.config.max_position_embeddings
    return pipeline


def products(engine: Engine, layers: Sequence[LayerWeights], lengths: list[int]) -> Callable[[], None]:
    """The linear layers' products at the engine's batches."""
    batches = [sum(lengths[i] for i in batch) for batch in engine.batches(lengths)]
    widest = max(batches)
    weights = [[layer.qkv, layer.output, layer.gate_up, layer.down] for layer in layers]
    ins = [torch.randn(widest, w.shape[1]).to(w) for w in weights[0]]
    outs = [torch.empty(widest, w.shape[0]).to(w) for w in weights[0]]

    @torch.inference_mode()
    def run() -> None:
        for rows in batches:
            for layer in weights:
                for w, x, out in zip(layer, ins, outs, strict=True):
                    torch.mm(x[:rows], w.t(), out=out[:rows])
        synchronize(engine)

    return run


def synchronize(engine: Engine) -> None:
    """Wait for the device, so that the clock sees what was queued."""
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Build the contestants, check that they agree, and run the rounds."""
    if options.threads:
        torch.set_num_threads(options.threads)
    config = QWEN3_EMBEDDING[options.size]
    config = replace(config, num_hidden_layers=options.layers or config.num_hidden_layers)
    device = pick_device(options.device)
    weights = random_weights(config, device, pick_dtype(options.dtype, device))
    engine = Engine(Model(config, weights), max_batch_tokens=options.batch_tokens)
    folder = demo_checkpoint()
    tokenizer = Tokenizer.read(folder)
    if options.case == "queries":
        return measure_queries(options, engine, tokenizer, one_token_words(tokenizer), seconds)
    texts = draw_texts(options, tokenizer)
    lengths = [len(ids) for ids in tokenizer.encode_batch(texts)]
    pipeline = sentence_transformer(engine, weights, folder)

    def at_batch_size(size: int) -> Callable[[], Any]:
        return lambda: pipeline.encode(texts, batch_size=size, show_progress_bar=False)

    found, expected = engine.encode(tokenizer.encode_batch(texts)), at_batch_size(8)()
    cosine = float((found * expected).sum(axis=1).min())
    if not cosine > (0.9999 if engine.dtype == torch.float32 else 0.99):
        raise SystemExit(f"the contestants disagree: lowest cosine {cosine}")
    trial = {size: seconds(at_batch_size(size)) for size in options.batch_sizes}
    best = min(trial, key=lambda size: trial[size])
    contestants: dict[str, Callable[[], object]] = {
        "engine": lambda: engine.encode(tokenizer.encode_batch(texts)),
        "sentence-transformers": at_batch_size(best),
        "products": products(engine, weights.layers, lengths),
    }
    contestants["products"]()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for i in range(options.rounds):
        for name in names[i % 3 :] + names[: i % 3]:
            times[name].append(seconds(contestants[name]))
    return {
        **describe_run(engine.device),
        "workload": {**vars(options), "texts": len(lengths), "tokens": sum(lengths), "lengths": sorted(lengths)},
        "engine": {"dtype": str(engine.dtype), "batch_tokens": engine.max_batch_tokens, "shapes": asdict(config)},
        "lowest_cosine": cosine,
        "sentence_transformers_batch_size": {"best": best, "trial_seconds": trial},
        "results": summarize(times, sum(lengths)),
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Engine, sentence-transformers and bare products, interleaved.")
    parser.add_argument("--case", choices=["texts", "queries"], default="texts")
    parser.add_argument("--size", choices=QWEN3_EMBEDDING, default="0.6B")
    parser.add_argument("--layers", type=int, help="fewer layers than the size has, for a trial run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=3000, help="tokens a round, at least")
    parser.add_argument("--queries", type=int, default=45, help="queries a round, in the case of that name")
    parser.add_argument("--instructions", type=int, default=1, help="that they are spread over")
    parser.add_argument("--median", type=float, default=90.0)
    parser.add_argument("--sigma", type=float, default=0.9)
    parser.add_argument("--shortest", type=int, default=4)
    parser.add_argument("--longest", type=int, default=2048)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--batch-tokens", type=int, help="the engine's token budget, default its own")
    parser.add_argument("--device", help="cpu or cuda, default CUDA if there is one")
    parser.add_argument("--dtype", help="float32 or bfloat16, default the device's")
    parser.add_argument("--threads", type=int, help="CPU threads, default torch's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the whole report as JSON")
    options = parser.parse_args()
    out = options.__dict__.pop("out")
    write_report(measure(options), out)


if __name__ == "__main__":
    main()
