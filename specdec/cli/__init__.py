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
        code = app(prog_name="specdec", standalone_mode=False)
        if code == 130:  # Typer of today turns Ctrl-C into this code itself
            raise KeyboardInterrupt
    except SpecdecError as error:
        code = _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = _fail("interrupted.", 130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; there is no one to tell
        code = 1
    except OSError as error:
        code = _fail(f"{error.filename or 'input or output'}: {error.strerror or error}.", 2)
    except Exception as error:
        message = getattr(error, "format_message", None)  # a usage error of the command line's parser
        if message is None:
            raise
        if type(error).__name__ == "NoArgsIsHelpError":  # no fault: the command alone shows its help
            typer.echo(message(), err=True)
            sys.exit(2)
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "specdec"
        what = message().removesuffix(".")
        code = _fail(f"{what}{'' if what.endswith('?') else '.'} See {command} --help.", 2) if what else 2
    sys.exit(code or 0)


def _fail(line: str, code: int) -> int:
    typer.echo(f"specdec: {line}", err=True)
    return code


from specdec.cli import (  # noqa: E402 - commands register themselves
    compare,  # noqa: F401
    doctor,  # noqa: F401
    export,  # noqa: F401
    models,  # noqa: F401
    plan,  # noqa: F401
    predict,  # noqa: F401
    profile,  # noqa: F401
    record,  # noqa: F401
    redact,  # noqa: F401
    replay,  # noqa: F401
    report,  # noqa: F401
    run,  # noqa: F401
    show,  # noqa: F401
    strategies,  # noqa: F401
    vocab,  # noqa: F401
    workloads,  # noqa: F401
)
