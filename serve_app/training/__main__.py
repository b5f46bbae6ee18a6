"""`python -m serve_app.training`: train the demo model and put it where `embedserve/demo` is served from."""

from __future__ import annotations

import argparse
import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import torch

from serve_app.engine.demo import demo_checkpoint
from serve_app.training.checkpoint import write_checkpoint
from serve_app.training.heldout import measure
from serve_app.training.texts import joined, read_texts
from serve_app.training.train import Settings, Trained, train

_LOG = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> None:
    """Train on all texts, or with `--held-out` on nine tenths of them while the rest is measured."""
    settings = Settings()
    parser = argparse.ArgumentParser(prog="python -m serve_app.training", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=demo_checkpoint(), help="folder to write (default: the one that is served)"
    )
    parser.add_argument("--steps", type=int, default=settings.steps)
    parser.add_argument("--seed", type=int, default=settings.seed)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument(
        "--held-out", action="store_true", help="train on nine tenths, measure on the rest, write nothing"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    settings = replace(settings, steps=options.steps, seed=options.seed)
    known, held_out = read_texts()
    if options.held_out:

        def report(step: int, trained: Trained) -> None:
            figures = {name: round(value, 3) for name, value in measure(held_out, trained.encode).items()}
            _LOG.info("step %d, held out: %s", step, json.dumps(figures))

        train(known, settings, report)
        return
    write_checkpoint(options.out, train(joined(known, held_out), settings))
    _LOG.info("written: %s", options.out)


if __name__ == "__main__":
    main()
