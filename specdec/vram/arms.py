"""From a run that names cards to runs with a split and a cap each: the two fair arms.

*Same split*: all strategies at the split that the most expensive of them needs. *Same VRAM*: each at the split that its
own cost leaves. A worker process holds all strategies of a run at once, so one that takes VRAM of its own gets a run of
its own, `none` beside it; the others share one. The runs of one command carry the same ``group``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from specdec.errors import SpecdecError
from specdec.llama.gguf import Header, whole_header
from specdec.metrics import BASELINE
from specdec.models import model_path
from specdec.registry import Defaults, Registry, default_strategies
from specdec.spec import ModelOptions, RunSpec
from specdec.syntax import Value
from specdec.vram.cards import Card
from specdec.vram.items import Case, itemise
from specdec.vram.memory import GPU, mtp_weights, on
from specdec.vram.overheads import MIB
from specdec.vram.plan import Fit, fit, same_split

CONTEXT = 8192
"""Tokens of context that are planned for where the run names none."""


def header_of(spec: RunSpec) -> Header:
    """The target's header, of all its parts."""
    header = whole_header(model_path(spec.target))
    if not header.has_trunk:
        raise SpecdecError(
            f"{header.path.name} holds an MTP layer alone, not a whole model.", "Give it as --mtp-model."
        )
    return header


def cases_of(spec: RunSpec, header: Header, n_max: int | None = None) -> list[Case]:
    """The strategies that are named, ``none`` first; where none is, all that the files given allow.

    ``n_max`` is the longest draft of mtp and draft where they do not name one; None: their own default.
    """
    mtp = header.nextn_layers > 0 or bool(spec.mtp_model)
    named = spec.strategies or default_strategies(mtp, bool(spec.draft), spec.strategy_files)
    longest: dict[str, Value] = {} if n_max is None else {"n_max": n_max}
    defaults: Defaults = {"draft": {"model": spec.draft, **longest}, "mtp": {"model": spec.mtp_model, **longest}}
    planned = Registry(spec.strategy_files).plan(named, defaults)
    for plan in planned:
        plan.build().check(header)
    n_ctx = spec.model.ctx_size or CONTEXT
    return [Case(p, n_ctx, spec.rollback[0], spec.snapshots) for p in planned]


def case_table(spec: RunSpec, header: Header) -> dict[str, list[dict[str, Any]]]:
    """By strategy, the items that it is expected to take at the run's own split and context."""
    cases = cases_of(spec, header)
    return {case.label: [asdict(item) for item in itemise(case, header, spec.model)] for case in cases}


def lay_out(spec: RunSpec, cards: list[Card], group: str, say: Callable[[str], None]) -> list[RunSpec]:
    """The runs that compare the strategies on these cards, both arms of each card.

    What a card cannot hold is left out, and said. Raises ``SpecdecError`` where it cannot hold plain decoding.
    """
    header = header_of(spec)
    cases = cases_of(spec, header)
    runs = []
    for card in cards:
        fits = [fit(case, header, spec.model, card) for case in cases]
        if not fits[0].fits:
            raise SpecdecError(f"{header.path.name} does not fit {card.name}.", f"{'; '.join(fits[0].advice)}.")
        for f in fits:
            say(f"{card.name}, {f.case.label}: {f.split if f.fits else 'left out, ' + '; '.join(f.advice)}")
        capped = {"card": card.name, "vram_limit": card.budget // MIB, "group": group}
        for options, arm, labels in _runs([f for f in fits if f.fits], header):
            model = options.model_copy(update={"ctx_size": cases[0].n_ctx})
            named = {"model": model, "arm": arm, "strategies": ",".join(labels)}
            # Models that only strategies of other runs take are left out.
            named |= {"draft": spec.draft if any("draft" in label for label in labels) else ""}
            named |= {"mtp_model": spec.mtp_model if any("mtp" in label for label in labels) else ""}
            runs.append(spec.model_copy(update=capped | named))
    return runs


def common_split(spec: RunSpec, card: Card, n_max: int | None = None) -> ModelOptions:
    """The split at which the card holds the most expensive of the strategies, one at a time on one loaded model
    (``n_max`` as in ``cases_of``): where one of them needs the MTP layer, its weights are beside the others, too."""
    header = header_of(spec)
    cases = {case: "mtp_layer" in case.planned.build().needs for case in cases_of(spec, header, n_max)}
    layer = on(GPU, mtp_weights(header, spec.model)) if any(cases.values()) else 0
    beside = replace(card, reserve_mib=card.reserve_mib - -layer // MIB)
    fits = [fit(case, header, spec.model, card if own else beside) for case, own in cases.items()]
    missing = next((f for f in fits if not f.fits), None)
    if missing is not None:
        raise SpecdecError(f"{missing.case.label} does not fit {card.name}.", f"{'; '.join(missing.advice)}.")
    return same_split(fits)


def _runs(fits: list[Fit], header: Header) -> list[tuple[ModelOptions, str, list[str]]]:
    """(split, arm, strategies beside `none`) of each run on one card."""
    common = same_split(fits)
    plain, drafting = fits[0], fits[1:]
    alone = {f.case.label for f in drafting if _own(f, header)}
    bundles = [[f] for f in drafting if f.case.label in alone]
    bundles += [shared] if (shared := [f for f in drafting if f.case.label not in alone]) else []
    out = []
    for bundle in bundles:
        both = all(f.options == common for f in [*bundle, plain])
        out.append((common, "same split + same VRAM" if both else "same split", [f.case.label for f in bundle]))
        for options in dict.fromkeys(f.split for f in bundle if not both):
            own = [f for f in bundle if f.split == options]
            if own[0].options != common:
                out.append((own[0].options, "same VRAM", [f.case.label for f in own]))
    if not any(arm != "same split" and options == plain.options for options, arm, _ in out):
        out.insert(0, (plain.options, "same VRAM", [BASELINE]))  # first: the whole arm is set against it
    return out


def _own(f: Fit, header: Header) -> int:
    """Bytes of VRAM that the strategy holds as long as it is open."""
    return on(GPU, f.case.planned.build().expected_memory(header, f.options, f.case.n_ctx))
