"""Small checkpoints in the file layout of the published ones: the demo's trained one, and random ones of any shape for tests.

Needs neither torch nor transformers. `python -m serve_app.engine.demo OUT_DIR` writes a random one; `serve_app.training` trains.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from serve_app.engine.demo_tokenizer import demo_tokenizer, tokenizer_settings
from serve_app.engine.demo_weights import write_weights
from serve_app.engine.model_config import ModelConfig

DEMO_MARKER = "embedserve_demo"
DEMO_CONFIG = ModelConfig(1280, 128, 256, 4, 4, 2, 64, max_position_embeddings=32768, dtype="float32")
_TASK = "Given a web search query, retrieve relevant passages that answer the query"
_MODULES = ("Transformer", "Pooling", "Normalize")
_README = """# Random checkpoint

Random weights in the architecture and file layout of the Qwen3-Embedding models, made by
`serve_app.engine.demo` for tests; its vectors know no language.
"""


def make_checkpoint(
    folder: Path,
    config: ModelConfig = DEMO_CONFIG,
    *,
    seed: int = 0,
    shards: int = 1,
    prefix: str = "",
    end_of_text: bool = True,
) -> Path:
    """Write a seeded checkpoint into `folder` and return it; the same arguments give the same bytes.

    `shards` above 1 splits the weights and adds an index. `prefix` goes before each tensor's name (`"model."`
    is how causal-language-model uploads name them; an untied `lm_head.weight` is then added).
    `end_of_text=False` makes the tokenizer defect of the first published uploads. Raises `CheckpointError`
    for a `vocab_size` the demo text can't fill.
    """
    tokenizer = demo_tokenizer(config.vocab_size, end_of_text=end_of_text)
    end_of_text_id = describe(folder, config, tokenizer, _README)
    write_weights(folder, config, end_of_text_id, seed=seed, shards=shards, prefix=prefix)
    return folder


def describe(folder: Path, config: ModelConfig, tokenizer: Tokenizer, readme: str) -> int:
    """Write all files of a checkpoint but its weights; the id of `<|endoftext|>`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    end_of_text_id = int(tokenizer.token_to_id("<|endoftext|>") or 0)
    _write_json(folder / "tokenizer_config.json", tokenizer_settings(tokenizer))
    _write_json(folder / "config.json", _model_fields(config, end_of_text_id))
    types = [f"sentence_transformers.models.{name}" for name in _MODULES]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": p, "type": t} for i, (p, t) in enumerate(zip(paths, types, strict=True))
    ]
    _write_json(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir(exist_ok=True)
    _write_json(folder / "1_Pooling" / "config.json", _pooling_fields(config))
    prompts = {"query": f"Instruct: {_TASK}\nQuery:", "document": ""}
    _write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )
    (folder / "README.md").write_text(readme, encoding="utf-8")
    return end_of_text_id


def demo_checkpoint() -> Path:
    """The folder of the demo checkpoint: a trained one, shipped in this package. Not to be written to."""
    return Path(__file__).with_name("demo_model")


def _model_fields(config: ModelConfig, end_of_text_id: int) -> dict[str, Any]:
    shapes = asdict(config)
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": end_of_text_id,
        "eos_token_id": end_of_text_id,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_window_layers": config.num_hidden_layers,
        "model_type": "qwen3",
        "rope_scaling": None,
        "sliding_window": None,
        "torch_dtype": shapes.pop("dtype"),
        "use_cache": True,
        "use_sliding_window": False,
        DEMO_MARKER: True,
        **shapes,
    }


def _pooling_fields(config: ModelConfig) -> dict[str, Any]:
    modes = (
        "cls_token",
        "mean_tokens",
        "max_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
        "lasttoken",
    )
    fields: dict[str, Any] = {f"pooling_mode_{mode}": mode == "lasttoken" for mode in modes}
    return {"word_embedding_dimension": config.hidden_size, **fields, "include_prompt": True}


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    """Write a random checkpoint from the command line."""
    parser = argparse.ArgumentParser(prog="python -m serve_app.engine.demo", description="Write a random checkpoint.")
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--layers", type=int, default=DEMO_CONFIG.num_hidden_layers)
    parser.add_argument("--hidden", type=int, default=DEMO_CONFIG.hidden_size)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=DEMO_CONFIG.dtype)
    options = parser.parse_args()
    config = replace(DEMO_CONFIG, num_hidden_layers=options.layers, hidden_size=options.hidden, dtype=options.dtype)
    make_checkpoint(options.out_dir, config, seed=options.seed, shards=options.shards)


if __name__ == "__main__":
    main()
