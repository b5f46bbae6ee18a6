"""Measures how good an embedding service is, as a client of its HTTP API."""
