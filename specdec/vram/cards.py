"""Cards by their size: what "8GB" means, and what an emulated one is called."""

from __future__ import annotations

import re
from dataclasses import dataclass

from specdec.errors import SpecdecError
from specdec.vram.overheads import MIB

RESERVE_MIB = 512
"""Of a card, left to the driver and the desktop."""

_MOST_GB = 4096
_HELD_BACK_MIB = 4
"""What a card reports less than its name says: an 8 GB card 8188 MiB."""


@dataclass(frozen=True, slots=True)
class Card:
    """A card's size as sold, and how many MiB of it are left to others."""

    gigabytes: float
    reserve_mib: int = RESERVE_MIB

    @property
    def name(self) -> str:
        """As it is written: ``8 GB``."""
        return f"{self.gigabytes:g} GB"

    @property
    def budget(self) -> int:
        """Bytes that one process may take, its CUDA context included."""
        return (round(self.gigabytes * 1024) - _HELD_BACK_MIB - self.reserve_mib) * MIB


def card_with(name: str, budget_mib: int) -> Card:
    """The card of this name, as ``8 GB``, of which ``budget_mib`` may be used."""
    whole = parse_cards(name, 0)[0]
    return Card(whole.gigabytes, whole.budget // MIB - budget_mib)


def capped_name(card: str, limit_mib: int, gpus: str, enforced: bool) -> str:
    """How results name a card that was made smaller than it is, or that was planned for and could not be enforced."""
    size = card or f"{limit_mib:,} MiB"
    return f"emulated {size} ({gpus}, capped)" if enforced else f"planned {size} ({gpus}, not enforced)"


def parse_cards(text: str, reserve_mib: int = RESERVE_MIB) -> list[Card]:
    """``8GB,12GB`` as cards."""
    if not 0 <= reserve_mib <= _MOST_GB * 1024:
        raise SpecdecError(f"--reserve {reserve_mib}: is no part of a card's memory.", "Give MiB, as --reserve 1024.")
    cards = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:GB|G)", part, re.IGNORECASE)
        if found is None or float(found[1]) > _MOST_GB:
            raise SpecdecError(f"--card: {part!r} is not the size of a card.", "Example: --card 8GB,12GB.")
        card = Card(float(found[1]), reserve_mib)
        if card.budget <= 0:
            raise SpecdecError(f"--card {part}: nothing is left of it after the reserve of {reserve_mib} MiB.")
        cards.append(card)
    if not cards:
        raise SpecdecError("--card: no card is named.", "Example: --card 8GB,12GB.")
    return list(dict.fromkeys(cards))
