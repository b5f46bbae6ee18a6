"""`embedserve keys`: make API keys, and look at the file that they are in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from serve_app.access.key import hashed, new_secret
from serve_app.access.key_file import Entry, add_key, read_keys

app = typer.Typer(help="Make API keys, and look over the file that they are in.", no_args_is_help=True)

File = Annotated[Path, typer.Option("--file", help="The file that auth.keys_file names.", dir_okay=False)]


@app.command()
def new(
    name: Annotated[
        str, typer.Argument(help="Whose key it is: letters, digits, '.', '_', '-'. It stands in logs and metrics.")
    ],
    file: Annotated[
        Path | None, typer.Option(help="Put its entry into this file; made if there is none.", dir_okay=False)
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    max_concurrent: Annotated[int | None, typer.Option(min=1, help="Requests at the same time.")] = None,
    bulk: Annotated[bool, typer.Option("--bulk", help="All its requests yield to interactive work.")] = False,
    model: Annotated[list[str] | None, typer.Option(help="A model that it may use, repeatable; all if unset.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="It sees /metrics and everybody's usage.")] = False,
) -> None:
    """Make a key: print its secret, this once, and the entry with its hash for the file of keys."""
    secret = new_secret()
    entry = Entry(
        name,
        hashed(secret),
        requests_per_minute,
        tokens_per_minute,
        max_concurrent,
        "bulk" if bulk else "interactive",
        model or None,
        admin,
    )
    try:
        text = add_key(file, entry)
    except ValueError as error:
        _fail(str(error))
    # To standard error, so that redirecting the entry into a file doesn't put the secret there too.
    print(f"The key, which nobody can show again:\n\n    {secret}\n", file=sys.stderr)
    if file is None:
        print("Its entry, to stand under `keys:` in the file that auth.keys_file names:\n", file=sys.stderr)
        print(text, end="")
    else:
        print(f"{name} is in {file}. Running gateways take it over within a second or two.", file=sys.stderr)


@app.command("list")
def list_(file: File) -> None:
    """Print the names of the keys in a file, with what they allow; fails if the file can't be used."""
    try:
        keys = read_keys(file)
    except ValueError as error:
        _fail(str(error))
    for key in keys:
        limits = {
            "requests/min": key.requests_per_minute,
            "tokens/min": key.tokens_per_minute,
            "at once": key.max_concurrent,
        }
        words = [f"{limit:,} {what}" for what, limit in limits.items() if limit is not None]
        words += ["bulk"] * key.bulk + ["admin"] * key.admin + sorted(key.models or ())
        print(f"{key.name:<24} {', '.join(words) or 'no limits'}")


def _fail(message: str) -> NoReturn:
    print(f"embedserve: {message}", file=sys.stderr)
    raise typer.Exit(1)
