"""How sure a comparison is: paired by prompt, cluster bootstrap, verdicts over a whole table (docs/verdicts.md)."""

from specdec.stats.bootstrap import Estimate, LaunchSpread, estimate, launch_spread, ratio_of_sums, speedup
from specdec.stats.pairs import Pairs, pair_generations
from specdec.stats.verdicts import EQUAL_WITHIN, FEWEST_PROMPTS, Verdict, judge

__all__ = [
    "EQUAL_WITHIN",
    "FEWEST_PROMPTS",
    "Estimate",
    "LaunchSpread",
    "Pairs",
    "Verdict",
    "estimate",
    "judge",
    "launch_spread",
    "pair_generations",
    "ratio_of_sums",
    "speedup",
]
