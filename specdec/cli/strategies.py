"""``specdec strategies``: list, show, new, check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from specdec.cli import app, complete
from specdec.cli import options as o

group = typer.Typer(
    help="List, show, write and check draft strategies.", invoke_without_command=True, rich_markup_mode=None
)
app.add_typer(group, name="strategies")

_TEMPLATE = '''"""{name}: a draft strategy of your own. Try it: specdec strategies check {file}:{cls}"""

from pydantic import Field

from specdec import Draft, Strategy, StrategyOptions


class Options(StrategyOptions):
    n_max: int = Field(4, ge=1, description="longest draft, tokens")


class {cls}(Strategy):
    """Guess that the text repeats: draft what followed the last token where it stood before."""

    name = "{name}"
    Options = Options

    def propose(self, context, max_tokens):
        earlier = (context[:-1] == context[-1]).nonzero()[0]
        if not len(earlier):
            return Draft()
        start = int(earlier[-1]) + 1
        return Draft(context[start : start + min(max_tokens, self.options.n_max)].tolist())
'''


@group.callback()
def list_strategies(context: typer.Context, strategy: o.StrategyFiles = []) -> None:  # noqa: B006 - Typer copies it
    """List the known strategies."""
    if context.invoked_subcommand is not None:
        return
    from tabulate import tabulate

    from specdec.registry import GROUPS, Registry

    registry = Registry(tuple(strategy))
    table = [[n, _summary(registry.known[n].cls), registry.known[n].origin.split(" (")[0]] for n in registry.names()]
    typer.echo(tabulate(table, ["strategy", "what it does", "from"], maxcolwidths=[None, 48, None]))
    for name, members in GROUPS.items():
        typer.echo(f"\nGroup {name}: {', '.join(members)}.")


@group.command()
def show(
    name: Annotated[str, typer.Argument(autocompletion=complete.strategy)],
    strategy: o.StrategyFiles = [],  # noqa: B006
) -> None:
    """Print a strategy's options with defaults and units."""
    from tabulate import tabulate

    from specdec.registry import Registry, option_lines

    found = Registry(tuple(strategy)).get(name)
    typer.echo(f"{name}: {_summary(found.cls)}\nFrom: {found.origin}\n")
    lines = option_lines(found.cls)
    typer.echo(tabulate(lines, ["option", "type", "default", "meaning"]) if lines else "It has no options.")


@group.command()
def new(
    name: str, file: Annotated[Path | None, typer.Option("--file", help="Where to write it; default ./NAME.py.")] = None
) -> None:
    """Write a working strategy file to start from."""
    from specdec.errors import SpecdecError
    from specdec.registry import GROUPS, Registry, parse_name

    if name in (*Registry().known, *GROUPS):
        raise SpecdecError(f"{name!r} is the name of a known strategy.", "Choose another.")
    if parse_name(name) != name or not name[:1].isalpha():
        raise SpecdecError(f"{name!r} is not a plain strategy name.", "Use letters, digits and hyphens.")
    stem = name.replace("-", "_")
    path = file or Path(f"{stem}.py")
    if path.exists():
        raise SpecdecError(f"{path} exists already.", "Choose another name, or --file.")
    cls = "".join(part.capitalize() for part in stem.split("_"))
    path.write_text(_TEMPLATE.format(name=name, cls=cls, file=path.as_posix()), encoding="utf-8")
    typer.echo(
        f"Wrote {path}. Check it:\n  specdec strategies check {path}:{cls}\nCompare it:\n"
        f"  specdec compare --target MODEL.gguf --strategy {path}:{cls}"
    )


@group.command()
def check(spec: Annotated[str, typer.Argument(metavar="FILE:CLASS|NAME")]) -> None:
    """Run the conformance suite on a strategy: a file's class, or a known name with options."""
    from specdec.registry import Registry, named
    from specdec.testing.conformance import check_strategy

    text, files = named(spec)
    planned = Registry(files).plan(text)
    failed = False
    for plan in planned[1:] or planned:  # plain decoding comes with all others
        results = check_strategy(plan.build)
        if len(planned) > 2:
            typer.echo(f"{plan.label}:")
        for r in results:
            typer.echo(f"{'ok  ' if r.passed else 'FAIL'}  {r.name}{': ' + r.detail if r.detail else ''}")
        failed |= not all(r.passed for r in results)
    if failed:
        raise typer.Exit(1)


def _summary(cls: type) -> str:
    return cls.__doc__.strip().splitlines()[0].replace("``", "") if cls.__doc__ else ""
