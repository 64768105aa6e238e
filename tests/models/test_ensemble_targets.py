"""What an ensemble predicts: the change of the observation, or the next observation directly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

import mbrl_wrappers
from mbrl_wrappers import EnsembleDynamics, EnsembleOptions, FitConfig, Trainer, Transitions

SPACE = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTIONS = spaces.Box(-1, 1, (1,), np.float32)
A = th.tensor([[0.9, 0.2], [-0.1, 0.8]])


def linear_rows(count: int = 800, offset: float = 0.0) -> Transitions:
    """A linear system, and a third dimension that never changes."""
    generator = th.Generator().manual_seed(0)
    obs = th.cat([th.randn(count, 2, generator=generator) + offset, th.full((count, 1), 5.0)], 1)
    action = th.rand(count, 1, generator=generator) * 2 - 1
    following = obs.clone()
    following[:, :2] = (obs[:, :2] - offset) @ A.t() + offset + 0.5 * action
    flags = th.zeros(count, dtype=th.bool)
    return Transitions(obs, action, following[:, 0], following, flags, ~flags)


def never(obs: th.Tensor, action: th.Tensor, next_obs: th.Tensor) -> th.Tensor:
    return th.zeros(len(obs), dtype=th.bool)


def model_of(target: Any, **kwargs: Any) -> EnsembleDynamics:
    return EnsembleDynamics(
        SPACE,
        ACTIONS,
        num_members=3,
        num_elites=2,
        hidden=(64, 64),
        propagation="mean",
        termination_fn=never,
        options=EnsembleOptions(target=target, **kwargs),
        device="cpu",
    )


def predicted(model: EnsembleDynamics, rows: Transitions) -> th.Tensor:
    with th.no_grad():
        state = model.reset(rows.obs, generator=th.Generator())
        return model.step(state, rows.action, generator=th.Generator())[1].next_obs


def test_before_any_fit_direct_is_the_network_alone() -> None:
    rows, delta, direct = linear_rows(5), model_of("delta"), model_of("direct")
    direct.load_state_dict(delta.state_dict())
    th.testing.assert_close(predicted(direct, rows) + rows.obs, predicted(delta, rows))


@pytest.mark.parametrize("layer_norm", [False, True])
def test_both_targets_learn_a_linear_system(layer_norm: bool) -> None:
    rows = linear_rows()
    found = {}
    for target in ("delta", "direct"):
        model = model_of(target, layer_norm=layer_norm)
        Trainer(model, FitConfig(max_epochs=60, learning_rate=3e-3), seed=0).fit(rows)
        found[target] = predicted(model, rows)
        error = (found[target] - rows.next_obs)[:, :2].square().mean().sqrt()
        assert float(error) < (0.15 if layer_norm else 0.06)
        assert found[target][:, 2].eq(5.0).all()
    difference = (found["delta"] - found["direct"])[:, :2].square().mean().sqrt()
    assert float(difference) < (0.2 if layer_norm else 0.08)


def test_statistics_are_those_of_the_target() -> None:
    rows, model = linear_rows(), model_of("direct")
    model.set_statistics(rows)
    th.testing.assert_close(model.target_normalizer.mean[:2], rows.next_obs[:, :2].mean(0))
    assert model.target_normalizer.constant.tolist() == [False, False, True, False]
    assert model.obs_dtype == th.float32


def test_a_direct_target_far_from_zero_is_refused() -> None:
    rows = linear_rows()
    far = rows._replace(obs=rows.obs.double() + 1e7, next_obs=rows.next_obs.double() + 1e7)
    with pytest.raises(ValueError, match="direct target"):
        model_of("direct").set_statistics(far)


def test_the_target_is_saved_with_the_model(tmp_path: Path) -> None:
    model = EnsembleDynamics(
        SPACE, ACTIONS, hidden=(8,), options=EnsembleOptions(target="direct", layer_norm=True), device="cpu"
    )
    mbrl_wrappers.save(model, tmp_path / "model")
    loaded = mbrl_wrappers.load(tmp_path / "model", device="cpu")
    assert loaded.options == model.options
    rows = linear_rows(5)
    state = model.reset(rows.obs, generator=th.Generator().manual_seed(0))
    pair = [m.step(state, rows.action, generator=th.Generator().manual_seed(0))[1].next_obs for m in (model, loaded)]
    assert th.equal(*pair)


def test_another_target_is_refused() -> None:
    with pytest.raises(ValueError, match="delta"):
        EnsembleOptions(target="both")  # type: ignore[arg-type]
