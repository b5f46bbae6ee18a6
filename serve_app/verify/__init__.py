"""Finds out whether a model, on this machine or behind a service, gives the vectors it should."""
