"""The command line: parse, call, print. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from specdec import __version__

app = typer.Typer(
    name="specdec",
    help="A laboratory for speculative decoding on your own machine: which strategy pays on your card, for your text?",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point: user errors are one line on stderr and exit code 2, Ctrl-C is 130."""
    from specdec.errors import SpecdecError

    try:
        app()
    except SpecdecError as error:
        typer.echo(f"specdec: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("specdec: interrupted.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; there is no one to tell


from specdec.cli import compare, report, strategies, vocab, workloads  # noqa: E402, F401 - commands register themselves
