"""What a profile is asked to measure."""

from __future__ import annotations

from pydantic import Field, field_validator

from specdec.profile.plan import PASSES
from specdec.spec import MOST, Checked, ModelOptions, SamplingOptions


class ProfileSpec(Checked):
    """One profile. ``depths`` and ``strategies`` may be empty: then they are chosen by what the model has and allows.
    The first of ``threads`` measures everything, the others the curve alone."""

    target: str
    strategies: str = ""
    strategy_files: tuple[str, ...] = ()
    draft: str = ""
    mtp_model: str = ""
    depths: tuple[int, ...] = ()
    passes: tuple[int, ...] = PASSES
    n_max: int = Field(8, ge=1, le=64)
    repeats: int = Field(6, ge=2, le=MOST)
    threads: tuple[int, ...] = (0,)
    experts: bool = False
    seed: int = Field(0, ge=0, le=MOST)
    card: str = ""
    vram_limit: int = Field(0, ge=0, le=MOST)
    sampling: SamplingOptions = SamplingOptions()
    model: ModelOptions = ModelOptions()

    @field_validator("depths")
    @classmethod
    def _deep(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(d < 16 for d in value):
            raise ValueError("a depth is at least 16 tokens")
        return tuple(sorted(set(value)))

    @field_validator("passes")
    @classmethod
    def _long(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 1 <= n <= 512 for n in value):
            raise ValueError("a target pass has 1 to 512 tokens")
        return tuple(sorted({1, *value}))
