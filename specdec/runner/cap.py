"""The cap of a run: what a card of the emulated size would not have is held by a ballast for the worker's life."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from specdec.llama.ballast import Ballast, hold
from specdec.llama.gguf import Header
from specdec.spec import ModelOptions, RunSpec
from specdec.vram.arms import case_table, cases_of
from specdec.vram.cards import capped_name, card_with
from specdec.vram.overheads import CUDA_CONTEXT, MIB
from specdec.vram.plan import fit


@dataclass(slots=True)
class Cap:
    """A run's cap; ``ballast`` None where there is none, or none can be."""

    card: str
    limit_mib: int
    ballast: Ballast | None

    def label(self, gpus: str) -> str:
        """The card as results name it."""
        return capped_name(self.card, self.limit_mib, gpus, self.ballast is not None) if self.limit_mib else gpus

    def close(self) -> None:
        """Give the memory back."""
        if self.ballast is not None:
            self.ballast.close()


class Capped(Protocol):
    """What a cap is read from: a run, a profile."""

    @property
    def card(self) -> str:
        """The emulated card, in words; empty for none."""

    @property
    def vram_limit(self) -> int:
        """MiB that may be used; 0: no cap."""

    @property
    def model(self) -> ModelOptions:
        """Which GPU."""


def hold_cap(spec: Capped, in_process: bool, say: Callable[[str], None]) -> Cap:
    """Take the ballast that the run asks for, before anything is loaded.

    Args:
        in_process: whether the engine computes in this process, whose CUDA context is there already and counts against
            the limit; a server pays for its own.
    """
    if not spec.vram_limit:
        return Cap("", 0, None)
    ballast = hold(spec.model, spec.vram_limit * MIB, CUDA_CONTEXT if in_process else 0)
    if ballast is None:
        say("warning: no GPU is used: the cap is planned for, not enforced")
    else:
        say(
            f"{ballast.gpu.name}: {ballast.bytes / MIB:,.0f} MiB are held back, {ballast.allowance / MIB:,.0f} are left"
        )
    return Cap(spec.card, spec.vram_limit, ballast)


def describe_cap(spec: RunSpec, header: Header) -> dict[str, Any] | None:
    """What run.json says of a cap: its size, the split, what each strategy is expected to take, and of a planned card the
    split that each could have for itself (``own_splits``); null without."""
    if not spec.vram_limit:
        return None
    said = {"card": spec.card, "vram_limit_mib": spec.vram_limit, **_split(spec.model)}
    said["expected"] = case_table(spec, header)
    if spec.card:
        card = card_with(spec.card, spec.vram_limit)
        fits = (fit(case, header, spec.model, card) for case in cases_of(spec, header))
        said["own_splits"] = {f.case.label: _split(f.options) for f in fits}
    return said


def _split(model: ModelOptions) -> dict[str, int]:
    return {"gpu_layers": model.gpu_layers, "n_cpu_moe": model.n_cpu_moe}
