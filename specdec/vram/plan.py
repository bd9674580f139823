"""The split that fits a card: the fewest expert layers in RAM, or of a dense model the most layers on the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from specdec.llama.gguf import Header
from specdec.spec import ModelOptions
from specdec.vram.cards import Card
from specdec.vram.items import Case, Item, itemise, total

_QUANTISED = "q8_0"
_LEAST_CONTEXT = 2048


@dataclass(frozen=True, slots=True)
class Fit:
    """A strategy on a card.

    Args:
        options: how the target is loaded, with the split found (or where nothing fits, the leanest there is).
        items: what it takes then.
        fits: whether the card holds it.
        advice: where it does not, what would: sentences.
    """

    case: Case
    card: Card
    options: ModelOptions
    items: list[Item]
    fits: bool
    advice: tuple[str, ...] = ()

    @property
    def left(self) -> int:
        """Bytes of the card that stay free (negative: that are missing)."""
        return self.card.budget - total(self.items)

    @property
    def split(self) -> str:
        """Where the layers lie, in llama.cpp's words."""
        return self.options.split


def fit(case: Case, header: Header, options: ModelOptions, card: Card) -> Fit:
    """The split with the most on the GPU that the card holds. What ``options`` say of the split is overruled."""
    found = _search(case, header, options, card)
    if found.fits:
        return found
    return replace(found, advice=tuple(_advice(case, header, options, card, found)))


def fit_at(case: Case, header: Header, options: ModelOptions, card: Card) -> Fit:
    """A given split on a card."""
    items = itemise(case, header, options)
    return Fit(case, card, options, items, total(items) <= card.budget)


def splits(header: Header, options: ModelOptions) -> list[ModelOptions]:
    """The splits worth trying, the most on the GPU first: experts to RAM layer by layer, then whole layers."""
    layers = int(header.get("block_count", 0))
    moe = bool(header.get("expert_count", 0))
    trunk = header.trunk_layers
    free = options.model_copy(update={"gpu_layers": -1, "n_cpu_moe": 0})
    experts = [free.model_copy(update={"n_cpu_moe": n}) for n in range(trunk + 1)] if moe else [free]
    whole = {"n_cpu_moe": trunk if moe else 0}
    return experts + [free.model_copy(update=whole | {"gpu_layers": n}) for n in range(layers, 0, -1)]


def same_split(fits: list[Fit]) -> ModelOptions:
    """The split that the most expensive of these needs: it holds them all."""
    return max((f.options for f in fits), key=lambda o: (o.gpu_layers >= 0, -o.gpu_layers, o.n_cpu_moe))


def _search(case: Case, header: Header, options: ModelOptions, card: Card) -> Fit:
    """By halving: what the GPU holds shrinks from split to split."""
    tried = splits(header, options)
    low, high = 0, len(tried) - 1
    while low < high:
        middle = (low + high) // 2
        if fit_at(case, header, tried[middle], card).fits:
            high = middle
        else:
            low = middle + 1
    return fit_at(case, header, tried[low], card)


def _advice(case: Case, header: Header, options: ModelOptions, card: Card, found: Fit) -> Iterator[str]:
    """What would fit, each tried; last what no other setting can give."""
    shorter = case.n_ctx // 2
    while shorter >= _LEAST_CONTEXT:
        if _search(replace(case, n_ctx=shorter), header, options, card).fits:
            yield f"--ctx-size {shorter} would fit"
            break
        shorter //= 2
    plain = {options.cache_type_k, options.cache_type_v} == {"f16"}
    leaner: list[tuple[dict[str, object], bool]] = [
        ({"cache_type_k": _QUANTISED, "cache_type_v": _QUANTISED}, plain),
        ({"ubatch_size": 128}, options.ubatch_size > 128),
    ]
    for change, open_ in leaner:
        if open_ and _search(case, header, options.model_copy(update=change), card).fits:
            yield " ".join(f"--{k.replace('_', '-')} {v}" for k, v in change.items()) + " would fit"
    unsnapped = replace(case, rollback="checkpoint", snapshots=None)
    kept = any(i.kind == "snapshots" for i in found.items)
    if kept and _search(unsnapped, header, options, card).fits:
        yield "--rollback checkpoint (no snapshots), or a smaller n_max, would fit"
    yield f"{-found.left / 2**20:,.0f} MiB are missing even at {found.split}: a smaller quantisation, a larger card"
