"""Tensors: checkpoint loading, the packed forward pass and the token-budget batcher.

Knows no Ray and no HTTP; importable where only torch, transformers, safetensors, tokenizers and numpy are
installed.
"""
