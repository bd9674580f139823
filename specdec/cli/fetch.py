"""Models on Hugging Face that a command names: downloaded before it starts; of some commands their headers alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from specdec.profile.spec import ProfileSpec
    from specdec.spec import RunSpec


def fetch_models(spec: RunSpec | ProfileSpec) -> None:
    """Download what the options and strategies name and is not here yet; a fault in the strategies is told before."""
    from specdec.models import hub
    from specdec.models.names import hub_names
    from specdec.registry import Registry

    names = hub_names(spec.target, spec.draft, spec.mtp_model, spec.strategies)
    if names and spec.strategies:
        Registry(spec.strategy_files).plan(spec.strategies, {})
    for name in names:
        hub.fetch(name, say)


@contextmanager
def headers_of(*texts: str) -> Iterator[dict[str, str]]:
    """As ``specdec.models.headers.headers_alone``, for all that stands in these options."""
    from specdec.models.headers import headers_alone
    from specdec.models.names import hub_names

    with headers_alone(hub_names(*texts), say) as later:
        yield later


def say(line: str) -> None:
    """To stderr: results alone go to stdout."""
    typer.echo(line, err=True)
