"""`embedserve up` for the application with the emulated device: Ray, HAProxy and the service on this machine until SIGTERM.

python -m loadtest.emulated_up --port 8000 --set device.inputs_per_second=100 --set replicas=4
"""

from __future__ import annotations

import argparse
import importlib
import os

from serve_app.cluster import instance
from serve_app.cluster.environment import Ports, serve_environment


def main() -> None:
    """Serve. Ports other than the service's own are free ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting; repeatable")
    parser.add_argument("--build", default="loadtest.emulated:build", metavar="MODULE:FUNCTION", help="what to serve")
    options = parser.parse_args()
    ports = Ports(options.port, instance.free_port(), instance.free_port(), fallback=instance.free_port())
    # Ray reads these when it is imported, and the processes it starts inherit them.
    os.environ.update(serve_environment(ports, cores=os.cpu_count() or 1))
    from loadtest.emulated import EmulatedSettings
    from serve_app.cluster.local import serve_here

    settings = EmulatedSettings.model_validate({"num_gpus": 0} | dict(pair.split("=", 1) for pair in options.set))
    module, _, function = options.build.partition(":")
    serve_here(settings, ports, None, getattr(importlib.import_module(module), function))


if __name__ == "__main__":
    main()
