"""``specdec run``: one text, live, each token marked by where it came from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specdec.cli import app, complete
from specdec.cli import options as o
from specdec.cli.fetch import fetch_models
from specdec.cli.option_groups import ModelFlags, Models, SamplingFlags, TextFlags, grouped

if TYPE_CHECKING:
    from specdec.engine import Engine
    from specdec.report.tokens import TokenStep
    from specdec.spec import RunSpec
    from specdec.types import Prompt

_PLAIN_TOKENS = 64
"""Tokens of plain decoding that the text is compared with."""


@app.command()
@grouped
def run(
    prompt: Annotated[str, typer.Argument(help="The prompt; @FILE takes a file's text, - standard input.")],
    models: Models,
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            "-s",
            help="Who drafts: none, 'mtp(n_max=2)', ./file.py:Class.",
            autocompletion=complete.strategy,
        ),
    ] = "none",
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--raw", help="Put the prompt into the model's chat template, or leave it; demo: --raw."),
    ] = None,
    *,
    text: TextFlags,
    rollback: o.RollbackMode = "auto",
    snapshots: o.Snapshots = None,
    sampling: SamplingFlags,
    model: ModelFlags,
) -> None:
    """Generate one text and watch it grow: each token marked as accepted (from whom), bonus, or plain."""
    from specdec.cli.progress import warnings_as_lines
    from specdec.engine import Engine
    from specdec.faults import own_faults_told
    from specdec.registry import named
    from specdec.runner.checks import plan_strategies, unused_options
    from specdec.spec import RunSpec, check

    asked = _prompt(prompt, raw=models.demo if chat is None else not chat)
    strategies, files = named(strategy)
    models.announce()
    values = {
        **models.values(),
        "strategies": strategies,
        "strategy_files": files,
        **text.values(),
        "rollback": (rollback,),
        "snapshots": snapshots,
        "sampling": sampling.values(),
        "model": model.values(),
    }
    spec = check(RunSpec, "run", values)
    with warnings_as_lines(_tell):
        planned = plan_strategies(spec)
        _refuse_several([p.label for p in planned[1:]])
        for line in unused_options(spec, planned):
            _tell(f"warning: {line}")
        fetch_models(spec)
        engine = Engine(spec, planned, _tell)
        try:
            with own_faults_told():
                engine.fit([asked])
                _answer(engine, spec, asked, _measure(spec))
        finally:
            engine.close()


def _answer(engine: Engine, spec: RunSpec, prompt: Prompt, measure: str) -> None:
    """Generate, show, sum up. Piped, the text goes to stdout as it is; all else is for people, on stderr."""
    from rich.console import Console

    from specdec.report.live import TokenStream, against_plain, summary
    from specdec.report.show import Marks, has_color
    from specdec.types import Limits

    console = Console(highlight=False, soft_wrap=True)
    marks, arm = Marks(has_color(console)), engine.arms[-1]
    label = arm.planned.label
    stream = TokenStream(label, engine.model.piece, spec.stop)
    show: Callable[[TokenStep], None] = _write
    if console.is_terminal:

        def show(step: TokenStep) -> None:
            console.print(marks.step(step), end="")

    def told(steps: list[TokenStep]) -> None:
        for step in steps:
            show(step)

    _, text = next(engine.answers(arm, prompt, told=lambda step: told(stream.add(step))))
    told(stream.end(text.text))
    if not console.is_terminal:
        _tell(f"{summary(label, text)}\n{against_plain(label, text, None, measure)}")
        return
    console.print("\n")
    console.print(marks.legend(), end="")
    console.print(summary(label, text))
    limits = Limits(min(_PLAIN_TOKENS, len(text.token_ids)), spec.ignore_eos, spec.stop)
    plain = None if arm is engine.arms[0] else next(engine.answers(engine.arms[0], prompt, limits))[1]
    console.print(against_plain(label, text, plain, measure))


def _measure(spec: RunSpec) -> str:
    """The command that measures what one text only hints at: with its settings, on the prompts that compare takes."""
    from specdec.command import compare_command
    from specdec.spec import LIMIT

    asked = spec.model_dump(mode="json", exclude={"n_predict"}) | {"limit": LIMIT}
    if spec.strategies == "none":
        del asked["strategies"]
    return compare_command(asked)


def _write(step: TokenStep) -> None:
    sys.stdout.write("".join(m.text for m in step.marks))
    sys.stdout.flush()


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def _prompt(given: str, raw: bool) -> Prompt:
    """The prompt that the command line names, as a message to a chat or as it is."""
    from specdec.errors import SpecdecError
    from specdec.types import Message, Prompt

    if given == "-":
        text, where = _decoded(sys.stdin.buffer.read(), "standard input"), "standard input"
    elif given.startswith("@"):
        path = Path(given[1:])
        if not path.is_file():
            raise SpecdecError(f"{given}: there is no such file.", "A prompt that begins with @ goes through -, piped.")
        text, where = _decoded(path.read_bytes(), str(path)), str(path)
    else:
        text, where = given, "PROMPT"
    if not text.strip():
        raise SpecdecError(f"{where}: the prompt is empty.", "Example: specdec run 'def main():'.")
    if raw:
        return Prompt("given", "run", "completion", "short", text=text)
    return Prompt("given", "run", "chat", "short", messages=(Message("user", text),))


def _decoded(raw: bytes, where: str) -> str:
    from specdec.errors import SpecdecError

    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise SpecdecError(f"{where}: is not UTF-8 text: {error}.") from error


def _refuse_several(labels: list[str]) -> None:
    from specdec.errors import SpecdecError

    if len(labels) > 1:
        raise SpecdecError(
            f"--strategy names {len(labels)} strategies: {', '.join(labels)}.",
            "One text has one; cascade(a, b) makes one of them, specdec compare takes several.",
        )
