"""The `embedserve` command."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, NoReturn

import psutil
import typer

from serve_app import __version__
from serve_app.access.key import LONGEST, hashed
from serve_app.bench.command import bench_command
from serve_app.cluster import instance
from serve_app.cluster.environment import Ports, run_directory, serve_environment
from serve_app.cluster.haproxy import clear, stop_strays
from serve_app.evals.command import eval_command
from serve_app.keys_command import app as keys_app
from serve_app.verify.command import verify_command

if TYPE_CHECKING:
    from serve_app.config import Settings

app = typer.Typer(
    help="Serve Qwen3-Embedding models behind an OpenAI-compatible API.", no_args_is_help=True, add_completion=False
)

app.add_typer(keys_app, name="keys")

DOWN_SECONDS = 150

API_KEY = "EMBEDSERVE_API_KEY"
"""The environment variable with a key: for `up` to ask for, for `status`, `cost` and `verify` to send."""

SHORTEST_KEY = 20

# What `cost` takes where nothing is given.
COST_URL = "http://127.0.0.1:8000"
COST_REQUEST_TOKENS = 100.0
COST_GPUS = 1

Port = Annotated[int, typer.Option(help="TCP port of the service.", min=1, max=65535)]


@app.command()
def up(
    model: Annotated[
        str | None, typer.Option(help="Hugging Face id or local folder; the demo checkpoint if unset.")
    ] = None,
    port: Port = 8000,
    replicas: Annotated[int, typer.Option(help="Embedder replicas.", min=1)] = 1,
    gateways: Annotated[int, typer.Option(help="Gateway replicas.", min=1)] = 1,
    num_gpus: Annotated[
        float | None, typer.Option(help="GPUs per replica; unset: 1 where the cluster has GPUs, else CPU.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting, as key=value; repeatable. Keys: `embedserve settings`."),
    ] = None,
    haproxy_stats_port: Annotated[int, typer.Option(help="0: any free port.", min=0, max=65535)] = 0,
    haproxy_metrics_port: Annotated[int, typer.Option(help="0: any free port.", min=0, max=65535)] = 0,
    gateway_ports: Annotated[str, typer.Option(help="Range that gateways listen on behind HAProxy.")] = "47000-47999",
    dashboard_port: Annotated[int | None, typer.Option(help="Start Ray's dashboard here.", min=1, max=65535)] = None,
) -> None:
    """Start Ray, HAProxy and the service on this machine; Ctrl-C stops all of it."""
    arguments: dict[str, object] = {"replicas": replicas, "gateways": gateways}
    arguments |= {key: value for key, value in (("model", model), ("num_gpus", num_gpus)) if value is not None}
    for pair in setting or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r} isn't key=value", param_hint="--set")
        arguments[key] = value
    # Taken out, so that no process of the cluster inherits the secret.
    if secret := os.environ.pop(API_KEY, ""):
        if len(secret) < SHORTEST_KEY:
            _fail(
                f"{API_KEY} has fewer than {SHORTEST_KEY} characters, so it could be guessed. `embedserve keys new NAME` makes one."
            )
        if len(secret.encode()) > LONGEST or secret != secret.strip():
            _fail(
                f"{API_KEY} can't be sent in a header: it needs to have at most {LONGEST} bytes, and no spaces at its ends."
            )
        arguments["auth.key_hash"] = hashed(secret)
    settings = _settings(arguments)
    first, _, last = gateway_ports.partition("-")
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) <= 65535):
        raise typer.BadParameter("FIRST-LAST is needed, like 47000-47999", param_hint="--gateway-ports")
    if holder := instance.port_holder(port):
        _fail(
            f"Port {port} is taken by {holder}. Choose another with --port, or stop that first (`embedserve down --port {port}`)."
        )
    ports = Ports(
        port,
        haproxy_stats_port or instance.free_port(),
        haproxy_metrics_port or instance.free_port(),
        int(first),
        int(last),
        instance.free_port(),
    )
    # Ray reads these when it is imported, and the processes it starts inherit them.
    os.environ.update(serve_environment(ports, cores=os.cpu_count() or 1))
    from serve_app.cluster.local import serve_here

    serve_here(settings, ports, dashboard_port)


@app.command()
def down(port: Port = 8000) -> None:
    """Stop what `embedserve up` started on this port, with everything it accepted answered."""
    found = instance.find(port)
    process = found.process() if found else None
    if process is not None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=DOWN_SECONDS)
        except psutil.TimeoutExpired:
            _fail(
                f"pid {process.pid} is still stopping after {DOWN_SECONDS} s; ask again, or end it with `kill -9 {process.pid}`."
            )
    # An `up` that was killed hard can leave HAProxy behind.
    stopped = stop_strays(run_directory(port))
    clear(run_directory(port))
    if process is None and not stopped:
        _fail(f"Nothing that `embedserve up` started runs on port {port}.")
    print(f"Stopped the service on port {port}.")


@app.command()
def status(port: Port = 8000) -> None:
    """Say what runs on this port and whether it answers; exit code 0 only if it's healthy."""
    found = instance.find(port)
    running = found is not None and found.process() is not None
    print(
        f"process  {'running, pid ' + str(found.pid) if found and running else 'not started by `embedserve up` on this machine'}"
    )
    code, health = instance.get_json(f"http://127.0.0.1:{port}/health")
    print(f"health   {health.get('status', 'no answer')}{': ' + health['reason'] if 'reason' in health else ''}")
    asked, models = instance.get_json(f"http://127.0.0.1:{port}/v1/models", api_key=os.environ.get(API_KEY))
    if asked == HTTPStatus.UNAUTHORIZED:
        print(f"model    not told without an API key: put one into {API_KEY}")
    for model in models.get("data", []):
        print(f"model    {model['id']}")
    raise typer.Exit(0 if code == 200 else 1)


@app.command()
def env(port: Port = 8000) -> None:
    """Print what to export on every node before `ray start`: eval "$(embedserve env)"."""
    for name, value in serve_environment(Ports(http=port), cores=os.cpu_count() or 1).items():
        print(f"export {name}={shlex.quote(value)}")


@app.command()
def settings() -> None:
    """Print every setting with its default and meaning, as JSON Schema."""
    from serve_app.config import Settings

    print(json.dumps(Settings.model_json_schema(), indent=2))


@app.command()
def check(file: Annotated[typer.FileBinaryRead, typer.Argument(help="Serve config file.")]) -> None:
    """Look a Serve config file over before `serve deploy`, `user_config` included."""
    from serve_app.cluster.config_file import problems

    found = problems(file.read())
    if found:
        _fail("\n".join(found))
    print("Every setting can be used.")


@app.command()
def cost(
    url: Annotated[str | None, typer.Option(help=f"A running service; unset: {COST_URL}.")] = None,
    tokens_per_second: Annotated[
        float | None, typer.Option(help="Instead of a running service: what one GPU does at full load.", min=1)
    ] = None,
    tokens_per_request: Annotated[
        float | None, typer.Option(help=f"With --tokens-per-second; unset: {COST_REQUEST_TOKENS:g}.", min=1)
    ] = None,
    gpus: Annotated[int | None, typer.Option(help=f"With --tokens-per-second; unset: {COST_GPUS}.", min=1)] = None,
    utilisation: Annotated[
        float | None,
        typer.Option(help="With --tokens-per-second: share of the time that is full load.", min=0.001, max=1),
    ] = None,
    qps: Annotated[
        float | None, typer.Option(help="With --tokens-per-second, instead of --utilisation.", min=0.001)
    ] = None,
    prices: Annotated[str | None, typer.Option(help="Price book; unset: the service's, or the package's.")] = None,
    gpu: Annotated[str | None, typer.Option(help="GPU of the price book.")] = None,
    gpu_usd_per_hour: Annotated[float | None, typer.Option(help="Instead of the book's price.", min=0.0001)] = None,
    token_factor: Annotated[
        float | None, typer.Option(help="Tokens that hosted APIs count for one here.", min=0.01)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False,
) -> None:
    """Say what a million tokens cost here and at hosted APIs, and where the two meet."""
    from msgspec.json import encode

    from serve_app.cost_command import OtherPrices, check_options, imagined_report, running_report
    from serve_app.telemetry.usage_table import usage_table

    load = {"--tokens-per-request": tokens_per_request, "--gpus": gpus, "--utilisation": utilisation, "--qps": qps}
    check_options(tokens_per_second, url, load)
    other = OtherPrices(prices, gpu, gpu_usd_per_hour, token_factor)
    try:
        if tokens_per_second is None:
            report = running_report(url or COST_URL, other, os.environ.get(API_KEY))
        else:
            size, count = tokens_per_request or COST_REQUEST_TOKENS, gpus or COST_GPUS
            report = imagined_report(other, tokens_per_second, size, count, utilisation, qps)
    except ValueError as error:
        _fail(str(error))
    print(encode(report).decode() if as_json else usage_table(report))


app.command()(bench_command(os.environ))
app.command()(verify_command(os.environ, API_KEY))

app.command("eval")(eval_command(os.environ))


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def _settings(arguments: dict[str, object]) -> Settings:
    from pydantic import ValidationError

    from serve_app.cluster.config_file import reasons
    from serve_app.config import Settings

    try:
        return Settings.model_validate(arguments)
    except ValidationError as error:
        _fail(f"These settings can't be used: {reasons(error)}. `embedserve settings` lists them all.")


def _fail(message: str) -> NoReturn:
    print(f"embedserve: {message}", file=sys.stderr)
    raise typer.Exit(1)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
