"""Groups of options: spread for Typer, one value for the command."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from specdec.cli import app
from specdec.cli.option_groups import ModelFlags, Models, SamplingFlags, grouped
from specdec.spec import ModelOptions, SamplingOptions, make_spec

GOT: dict[str, Any] = {}
TOY = typer.Typer()


@TOY.command()
@grouped
def toy(word: str, models: Models, threads: str = "1,2", *, sampling: SamplingFlags, model: ModelFlags) -> None:
    """A command of its own."""
    GOT.update(word=word, models=models, threads=threads, sampling=sampling, model=model)


def call(*arguments: str) -> dict[str, Any]:
    GOT.clear()
    done = CliRunner().invoke(TOY, arguments)
    assert done.exit_code == 0, done.output
    return GOT


def test_groups_reach_the_command_whole() -> None:
    got = call("w", "-m", "a.gguf", "--temp", "0.5", "--no-mmap", "-ot", "x=CPU", "-ot", "y=CPU", "--no-op-offload")
    assert got["models"] == Models("a.gguf")
    assert got["sampling"] == SamplingFlags(temp=0.5)
    values = got["model"].values()
    assert (values["load_mode"], values["override_tensor"], values["op_offload"]) == ("none", ["x=CPU", "y=CPU"], False)
    assert call("w")["model"] == ModelFlags(), "a list is not shared between calls"


def test_a_parameter_of_the_commands_own_goes_first() -> None:
    got = call("w", "--threads", "4,8")
    assert (got["threads"], got["model"].threads) == ("4,8", 0)


def test_the_defaults_are_those_of_what_they_are_checked_against() -> None:
    assert ModelOptions.model_validate(ModelFlags().values()) == ModelOptions()
    assert SamplingOptions.model_validate(SamplingFlags().values()) == SamplingOptions()


def test_only_the_demo_model_brings_a_draft() -> None:
    def draft(models: Models) -> str:
        return make_spec(**models.values()).draft

    assert draft(Models()) == "demo-draft"
    assert draft(Models("a.gguf")) == ""
    assert draft(Models(draft="b.gguf")) == "b.gguf"


@pytest.mark.parametrize("command", ["compare", "record", "profile", "run"])
def test_commands_that_load_a_model_take_its_options(command: str) -> None:
    known = {p.name for p in typer.main.get_command(app).commands[command].params}  # type: ignore[attr-defined]
    assert known >= set(ModelFlags().values()) - {"op_offload"} | {"target", "draft", "mtp_model", "sampling", "temp"}
    assert not known & {"models", "model"}
