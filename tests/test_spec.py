"""Options at the border: what a run resolves to."""

from __future__ import annotations

import pytest

from specdec.errors import SpecdecError
from specdec.spec import SamplingOptions, make_spec
from specdec.types import Sampling

RECOMMENDED = {"temp": 0.6, "top_k": 20.0, "top_p": 0.95}


def resolve(recommended: dict[str, float] | None = None, **options: object) -> Sampling:
    return make_spec(target="x", sampling=options, seed=3).resolve_sampling(recommended or {})


def test_greedy_is_the_default_whatever_the_model_recommends() -> None:
    assert resolve(RECOMMENDED) == Sampling(seed=3)
    assert resolve(RECOMMENDED).label == "greedy"


def test_the_models_recommendation_and_single_overrides() -> None:
    assert resolve(RECOMMENDED, sampling="model") == Sampling(0.6, 20, 0.95, 0.0, 3)
    assert resolve(RECOMMENDED, sampling="model", top_k=5).top_k == 5
    assert resolve(temp=0.8, min_p=0.1) == Sampling(0.8, 0, 1.0, 0.1, 3)


@pytest.mark.parametrize("options", [{"sampling": "model"}, {"top_k": 5}, {"temp": 0.0, "top_p": 0.5}])
def test_what_would_do_nothing_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(SpecdecError):
        resolve(**options)


def test_unknown_and_wrong_values_name_the_option() -> None:
    with pytest.raises(SpecdecError, match="--repeats: Input should be greater"):
        make_spec(target="x", repeats=0)
    with pytest.raises(SpecdecError, match="--launch-pause is a pause between launches"):
        make_spec(target="x", launch_pause=5)
    for minutes in (-1.0, float("nan"), 1e10):
        with pytest.raises(SpecdecError, match="--launch-pause: Input should be"):
            make_spec(target="x", launches=2, launch_pause=minutes)
    for name in ("seed", "n_predict", "vram_limit", "ram_limit", "cell_timeout", "launches"):
        with pytest.raises(SpecdecError, match=f"--{name.replace('_', '-')}: Input should be less than"):
            make_spec(target="x", **{name: 2**63})
    with pytest.raises(SpecdecError, match="--cell-timeout: Input should be"):
        make_spec(target="x", cell_timeout=float("inf"))
    with pytest.raises(SpecdecError, match="--quick asks each strategy once"):
        make_spec(target="x", quick=True, launch_pause=5)
    with pytest.raises(SpecdecError, match="--ubatch-size"):
        make_spec(target="x", model={"ubatch_size": 1})
    assert make_spec(target="x").sampling == SamplingOptions()
