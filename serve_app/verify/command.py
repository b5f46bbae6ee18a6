"""The command line of `embedserve verify`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import typer


def verify_command(environment: Mapping[str, str], key_variable: str) -> Callable[..., None]:
    """The command; a service's API key is looked up in `environment` under `key_variable`."""

    def verify(
        model: Annotated[str | None, typer.Argument(help="Local folder, Hugging Face id, or embedserve/demo.")] = None,
        url: Annotated[
            str | None, typer.Option(help="A running service instead; its API key from EMBEDSERVE_API_KEY.")
        ] = None,
        against: Annotated[Path | None, typer.Option(help="Golden file that scores have to agree with.")] = None,
        record: Annotated[
            Path | None,
            typer.Option(help="Write this model's scores to a golden file, for --against on other machines."),
        ] = None,
        revision: Annotated[str | None, typer.Option(help="Commit or branch on the Hugging Face hub.")] = None,
        device: Annotated[str | None, typer.Option(help="cpu or cuda; CUDA if there is one.")] = None,
        dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, int8 (CPU), fp8 (GPU).")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False,
    ) -> None:
        """Check that a model, or a running service, gives the vectors it should; exit code 0 only if nothing is wrong."""
        if (model is None) == (url is None):
            _fail("Name a model, or a service with --url.")
        if model is not None and model.startswith(("http://", "https://")):
            _fail(f"{model} is no model: for a service, `embedserve verify --url {model}`.")
        if url is not None and (record or revision or device or dtype):
            _fail("--record, --revision, --device and --dtype are for a model on this machine, not for --url.")
        if record is not None and (record.is_dir() or not record.parent.is_dir()):
            _fail(
                f"--record {record}: {'that is a folder' if record.is_dir() else f'there is no folder {record.parent}'}."
            )
        from serve_app.engine.golden import Golden
        from serve_app.errors import EmbedserveError

        try:
            golden = Golden.read(against) if against is not None else None
            if url is not None:
                from serve_app.verify.client import Client
                from serve_app.verify.service import Verification

                with Client(url, environment.get(key_variable)) as client:
                    report = Verification(client, golden).run()
            else:
                from serve_app.verify.local import recorded, verify_model

                report, engine = verify_model(str(model), revision, device=device, dtype=dtype, against=golden)
                if record is not None and report.passed and engine is not None:
                    scores = recorded(engine)
                    try:
                        scores.write(record)
                    except OSError as error:
                        _fail(f"{record} can't be written: {error.strerror}.")
        except EmbedserveError as error:
            _fail(str(error))
        print(report.as_json() if as_json else report.as_table())
        if record is not None:
            done = (
                f"Scores are in {record}." if report.passed else f"Nothing written to {record}: the model isn't right."
            )
            print(done, file=sys.stderr)
        raise typer.Exit(0 if report.passed else 1)

    return verify


def _fail(message: str) -> NoReturn:
    print(f"embedserve: {message}", file=sys.stderr)
    raise typer.Exit(1)
