"""In place of pandas for the processes that tests start; see `tests/conftest.py`."""

raise ImportError("Services are started without pandas here.")
