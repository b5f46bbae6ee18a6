"""Where this process counts."""

from __future__ import annotations

import os

from prometheus_client import values

from serve_app.telemetry.directory import MetricsDirectory


def count_in(directory: MetricsDirectory) -> None:
    """From now on new metrics of this process are kept in files in `directory`, and outlive it. Those made before aren't.

    `prometheus_client` takes the directory from the environment and nowhere else. It is set here, and not for the whole process from
    its start, because only here the node's own directory is known.
    """
    name = directory.join()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory.path)
    values.ValueClass = values.MultiProcessValue(lambda: name)
