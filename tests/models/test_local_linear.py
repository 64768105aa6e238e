"""The local linear model: exact where the system is linear, close where it changes with time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

import mbrl_wrappers
from mbrl_wrappers import LocalLinearModel, LocalLinearTrainer, Transitions, branched_rollout
from mbrl_wrappers.models.local_linear import LocalLinearState, quadratic_features
from mbrl_wrappers.tasks import never_terminates
from mbrl_wrappers.training import LocalLinearConfig
from mbrl_wrappers.training.local_linear_trainer import episode_times, piecewise_regression

A = np.array([[0.9, 0.2], [-0.1, 0.8]])
B, DRIFT = np.array([[0.1], [0.5]]), np.array([0.05, -0.02])
OBS, ACTION = spaces.Box(-np.inf, np.inf, (2,), np.float32), spaces.Box(-2, 2, (1,), np.float32)


def recorded(
    episodes: int = 20, steps: int = 30, *, turn: float = 0.0, noise: float = 0.0, seed: int = 0, shift: float = 0.0
) -> Transitions:
    """Episodes of a linear system whose first coefficient grows by ``turn`` per step, from about ``(1, 0)``."""
    rng = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {name: [] for name in Transitions._fields}
    for _ in range(episodes):
        state = np.array([1.0, 0.0]) + 0.3 * rng.normal(size=2)
        for time in range(steps):
            action = rng.uniform(-1, 1, 1)
            matrix = A + np.diag([turn * time + shift, 0.0])
            following = matrix @ state + B @ action + DRIFT + noise * np.array([1.0, 2.0]) * rng.normal(size=2)
            reward = 3 - state[0] ** 2 + state[0] * state[1] - 0.1 * action[0] ** 2
            row = (state, action, reward, following, False, time == steps - 1)
            for name, value in zip(Transitions._fields, row, strict=True):
                columns[name].append(value)
            state = following
    rows = {name: np.array(values) for name, values in columns.items()}
    flags = ("terminated", "last")
    return Transitions(*(th.as_tensor(v) if n in flags else th.as_tensor(v, dtype=th.float32) for n, v in rows.items()))


def fitted(rows: Transitions, *, window: int = 5, **config: Any) -> tuple[LocalLinearModel, Any]:
    model = LocalLinearModel(OBS, ACTION, window=window, device="cpu")
    return model, LocalLinearTrainer(model, LocalLinearConfig(**config)).fit(rows)


def mean_errors(model: LocalLinearModel, rows: Transitions) -> th.Tensor:
    """Absolute errors of the predicted observation ``(B, O)`` at the true times."""
    state = LocalLinearState(rows.obs, episode_times(rows.last))
    draws = [model.step(state, rows.action, generator=th.Generator().manual_seed(seed))[1] for seed in range(2)]
    assert model.pieces is not None
    if float(model.pieces.noise.abs().max()) < 1e-3:
        assert th.allclose(draws[0].next_obs, draws[1].next_obs, atol=1e-3)
    return (draws[0].next_obs - rows.next_obs).abs()


def test_a_linear_system_is_found_exactly() -> None:
    model, report = fitted(recorded())
    fresh = recorded(seed=1)
    assert float(mean_errors(model, fresh).max()) < 2e-5
    state = LocalLinearState(fresh.obs, episode_times(fresh.last))
    reward = model.step(state, fresh.action, generator=th.Generator())[1].reward
    assert th.allclose(reward, fresh.reward, atol=1e-4)
    assert report.dimensions == ("obs0", "obs1", "reward")
    assert report.r2_min > 0.999999
    assert (report.train_rows, report.gradient_steps) == (600 - report.holdout_rows, 0)
    assert np.isnan(report.initial_error[0])


def test_a_system_that_changes_with_time_is_tracked() -> None:
    changing, fresh = recorded(turn=0.004), recorded(turn=0.004, seed=1)
    local = mean_errors(fitted(changing, prior_rows=1.0)[0], fresh).mean()
    single = mean_errors(fitted(changing, window=1000)[0], fresh).mean()
    assert local < 0.2 * single


def test_a_refit_follows_the_newest_rows() -> None:
    old, new = recorded(), recorded(shift=-0.1, seed=1)
    both = Transitions(*(th.cat(columns) for columns in zip(old, new, strict=True)))
    fresh = recorded(shift=-0.1, seed=2)
    model = LocalLinearModel(OBS, ACTION, window=5, device="cpu")
    trainer = LocalLinearTrainer(model, LocalLinearConfig(recent_rows=600))
    trainer.fit(old)
    before = mean_errors(model, fresh).mean()
    report = trainer.fit(both)
    assert mean_errors(model, fresh).mean() < 1e-3 * before
    assert report.initial_error[0] > 1000 * report.holdout_error[0]
    swapped = Transitions(*(th.cat(columns) for columns in zip(new, old, strict=True)))
    trainer.fit(swapped, row_ids=th.cat([th.arange(600, 1200), th.arange(600)]))  # as a ring that wrapped around
    assert mean_errors(model, fresh).mean() < 1e-3 * before


def test_the_noise_has_the_covariance_of_what_is_left() -> None:
    model, report = fitted(recorded(60, noise=0.05), window=15)
    assert model.pieces is not None
    covariance = (model.pieces.noise @ model.pieces.noise.transpose(1, 2)).mean(0)
    assert covariance.numpy() == pytest.approx(np.diag([0.05**2, 0.1**2]), rel=0.1, abs=3e-4)
    assert report.coverage_90_mean == pytest.approx(0.9, abs=0.05)
    one = LocalLinearState(th.zeros(20_000, 2), th.zeros(20_000, dtype=th.int64))
    drawn = model.step(one, th.zeros(20_000, 1), generator=th.Generator().manual_seed(0))[1].next_obs
    own = model.pieces.noise[0] @ model.pieces.noise[0].T
    assert np.cov(drawn.T.numpy()) == pytest.approx(own.numpy(), rel=0.05, abs=1e-4)


def test_each_piece_is_a_regression_that_leans_on_the_whole() -> None:
    generator = th.Generator().manual_seed(0)
    inputs = th.randn(40, 3, generator=generator, dtype=th.float64)
    targets = th.randn(40, 2, generator=generator, dtype=th.float64)
    piece = th.arange(40) // 20
    found = piecewise_regression(inputs, targets, piece, 2, 5.0)
    whole = th.linalg.solve(inputs.T @ inputs, inputs.T @ targets)
    moment = inputs.T @ inputs / 40
    for number in range(2):
        own, wanted = inputs[piece == number], targets[piece == number]
        expected = th.linalg.solve(own.T @ own + 5 * moment, own.T @ wanted + 5 * moment @ whole)
        assert th.allclose(found[number], expected.T)


def test_a_start_begins_at_the_time_when_such_states_were_seen() -> None:
    model, _ = fitted(recorded(40))
    rows = recorded(1, seed=3)
    state = model.reset(rows.obs[[0, 29]], generator=th.Generator())
    assert state.time[0] < 5
    assert state.time[1] > 10
    following, _ = model.step(state, rows.action[:2], generator=th.Generator())
    assert (following.time - state.time).tolist() == [1, 1]
    assert model.piece(th.tensor([0, 4, 5, 29, 1000])).tolist() == [0, 0, 1, 5, 5]


def test_gradients_are_those_of_the_linear_map() -> None:
    model, _ = fitted(recorded())
    obs, action = th.tensor([[0.5, 0.1]], requires_grad=True), th.tensor([[0.3]], requires_grad=True)
    state = model.with_state_vector(model.reset(obs.detach(), generator=th.Generator()), obs)
    next_obs = model.step(state, action, generator=th.Generator())[1].next_obs
    rows = [th.autograd.grad(next_obs[0, index], [obs, action], retain_graph=True) for index in range(2)]
    assert th.cat([th.cat(row, 1) for row in rows]).numpy() == pytest.approx(np.hstack([A, B]), abs=1e-4)


def test_saved_and_loaded_it_predicts_the_same(tmp_path: Path) -> None:
    model, _ = fitted(recorded(noise=0.1))
    mbrl_wrappers.save(model, tmp_path / "model")
    loaded = mbrl_wrappers.load(tmp_path / "model", device="cpu")
    rows = recorded(1)

    def rolled(model: Any) -> Transitions:
        policy = lambda obs, *, generator: th.zeros(len(obs), 1)  # noqa: E731
        return branched_rollout(model, policy, rows.obs, 3, generator=th.Generator().manual_seed(0)).transitions

    assert all(th.equal(a, b) for a, b in zip(rolled(model), rolled(loaded), strict=True))


def test_known_functions_get_environment_units() -> None:
    def reward(obs: th.Tensor, action: th.Tensor, next_obs: th.Tensor) -> th.Tensor:
        return action[:, 0]

    def ends(obs: th.Tensor, action: th.Tensor, next_obs: th.Tensor) -> th.Tensor:
        return action[:, 0] > 1.5

    model = LocalLinearModel(OBS, ACTION, reward_fn=reward, termination_fn=ends, device="cpu")
    report = LocalLinearTrainer(model).fit(recorded())
    assert report.dimensions == ("obs0", "obs1")
    state = model.reset(th.ones(2, 2), generator=th.Generator())
    prediction = model.step(state, th.tensor([[1.0], [0.5]]), generator=th.Generator())[1]
    assert prediction.reward.tolist() == [2, 1]
    assert prediction.terminated.tolist() == [True, False]


def test_quadratic_features() -> None:
    assert quadratic_features(th.tensor([[2.0, 3.0]])).tolist() == [[4, 6, 2, 9, 3, 1]]


def test_what_cannot_work_is_refused() -> None:
    rows = recorded(2)
    model = LocalLinearModel(OBS, ACTION, device="cpu")
    with pytest.raises(ValueError, match="never fitted"):
        model.reset(rows.obs, generator=th.Generator())
    trainer = LocalLinearTrainer(model)
    with pytest.raises(ValueError, match="give it termination_fn"):
        trainer.fit(rows._replace(terminated=rows.last))
    with pytest.raises(ValueError, match=r"Transitions.reward has a number that is not finite"):
        trainer.fit(rows._replace(reward=rows.reward / 0))
    with pytest.raises(ValueError, match="at least 10 transitions"):
        trainer.fit(Transitions(*(column[:5] for column in rows)))
    with pytest.raises(ValueError, match=r"shape \(B, 2\)"):
        fitted(rows)[0].reset(th.zeros(3, 4), generator=th.Generator())


def test_a_constant_dimension_stays_constant() -> None:
    rows = recorded()
    wide = lambda obs: th.cat([obs, th.full_like(obs[:, :1], 7.0)], 1)  # noqa: E731
    model = LocalLinearModel(
        spaces.Box(-np.inf, np.inf, (3,), np.float32), ACTION, termination_fn=never_terminates, device="cpu"
    )
    report = LocalLinearTrainer(model).fit(rows._replace(obs=wide(rows.obs), next_obs=wide(rows.next_obs)))
    assert report.constant == ("obs2",)
    assert report.r2_min > 0.9999
    state = model.reset(wide(rows.obs[:5]), generator=th.Generator())
    next_obs = model.step(state, rows.action[:5], generator=th.Generator())[1].next_obs
    assert th.allclose(next_obs[:, 2], th.full((5,), 7.0), atol=1e-3)
