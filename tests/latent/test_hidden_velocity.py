"""Pendulum with its velocity masked: what each posterior finds out, and rewards that come with the last step."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from mbrl_wrappers.latent import LatentOptions, LatentStateSpaceModel
from mbrl_wrappers.replay import TransitionStore
from mbrl_wrappers.seeding import torch_generator
from mbrl_wrappers.tasks.functions import never_terminates
from mbrl_wrappers.training.sequence_trainer import SequenceFitConfig, SequenceTrainer

SEEN = spaces.Box(-1.0, 1.0, (2,), np.float32)


def pendulum(steps: int, seed: int) -> tuple[TransitionStore, th.Tensor]:
    """Random steps that show cosine and sine only, and the velocity ``(B,)`` that each one led to."""
    env = gymnasium.make("Pendulum-v1")
    store = TransitionStore(steps, SEEN, env.action_space)
    env.action_space.seed(seed)
    obs, _ = env.reset(seed=seed)
    velocities = []
    for _ in range(steps):
        action = env.action_space.sample()
        following, reward, terminated, truncated, _ = env.step(action)
        store.add(obs[:2], action, reward, following[:2], terminated, truncated)
        velocities.append(following[2])
        obs = env.reset()[0] if truncated else following
    return store, th.as_tensor(np.array(velocities))


def velocity_r2(model: LatentStateSpaceModel, episodes: int = 20) -> float:
    """R² of a linear fit of the velocity on the filtered belief, on episodes of their own."""
    store, velocity = pendulum(200 * episodes, 1)
    rows, g = store.transitions(), torch_generator(0)
    starts, none = th.arange(0, 200 * episodes, 200), th.zeros(episodes, dtype=th.bool)
    state = model.observe(model.initial(episodes), rows.action[starts], rows.obs[starts], ~none, generator=g)
    features, wanted = [], []
    for time in range(200):
        index = starts + time
        state = model.observe(state, rows.action[index], rows.next_obs[index], none, generator=g)
        if time >= 5:
            features.append(th.cat([state.recurrent, state.mean, th.ones(episodes, 1)], 1))
            wanted.append(velocity[index])
    x, y, half = th.stack(features, 1).double(), th.stack(wanted, 1).double(), episodes // 2
    weights = th.linalg.lstsq(x[:half].flatten(0, 1), y[:half].flatten()[:, None]).solution
    error = (x[half:].flatten(0, 1) @ weights)[:, 0] - y[half:].flatten()
    return float(1 - error.square().mean() / y[half:].var())


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        (dict(posterior="single"), -1.0, 0.1),
        (dict(posterior="factorised filter"), 0.9, 1.0),
        (dict(posterior="filter"), 0.9, 1.0),
        (dict(posterior="filter", summary="none", recurrent_size=32), 0.9, 1.0),
        (dict(posterior="smoother"), 0.9, 1.0),
        (dict(posterior="factorised smoother"), 0.9, 1.0),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_filters_and_smoothers_find_the_velocity_and_one_observation_does_not(
    options: Any, low: float, high: float
) -> None:
    store, _ = pendulum(5000, 0)
    model = LatentStateSpaceModel(
        SEEN,
        gymnasium.make("Pendulum-v1").action_space,
        options=LatentOptions(**options),
        termination_fn=never_terminates,
        device="cpu",
    )
    config = SequenceFitConfig(max_gradient_steps=1000)
    report = SequenceTrainer(model, config).fit(store.transitions(), row_ids=store.row_ids())
    r2 = velocity_r2(model)
    print(options, "velocity R2", r2, "closed", report.quality.closed_loop_r2, "open", report.quality.open_loop_r2)
    assert low <= r2 <= high


def test_a_reward_that_comes_with_the_last_step_is_imagined() -> None:
    # Three places in a row; the step into the last one pays 1 and ends the episode.
    space, actions = spaces.Box(-9.0, 9.0, (1,), np.float32), spaces.Discrete(2)
    store, rng = TransitionStore(2000, space, actions), np.random.default_rng(0)
    place = 0
    for _ in range(400):
        action = int(rng.integers(2))
        following = place + action
        store.add([place], action, float(following == 2), [following], following == 2, False)
        place = following % 2
    options = LatentOptions(latent_size=2, posterior="single", hidden=(32,), encoder_hidden=(32,), decoder_std=0.2)
    model = LatentStateSpaceModel(space, actions, options=options, device="cpu")
    config = SequenceFitConfig(max_gradient_steps=150, batch_size=32, window=4, learning_rate=1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        SequenceTrainer(model, config).fit(store.transitions(), row_ids=store.row_ids())
    g, count = torch_generator(0), 50
    right, first = th.tensor([[0.0, 1.0]]).expand(count, 2), th.ones(count, dtype=th.bool)
    state = model.observe(model.initial(count), right, th.zeros(count, 1), first, generator=g)
    with th.no_grad():
        state, one = model.step(state, right, generator=g)
        state, two = model.step(state, right, generator=g)
    assert one.reward.mean() < 0.2
    assert two.reward.mean() > 0.8
    assert one.terminated.float().mean() < 0.1
    assert two.terminated.float().mean() > 0.9
