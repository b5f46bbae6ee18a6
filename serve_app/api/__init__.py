"""Dialects: bytes to `EmbedJob` and back. Knows no Ray, no torch."""
