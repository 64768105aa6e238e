"""MuJoCo tasks, and how tests roll them."""

from __future__ import annotations

import numpy as np
import torch as th

FAST = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Swimmer-v5", "InvertedPendulum-v5")
SHADOWED = ("Ant-v5", "Humanoid-v5", "HumanoidStandup-v5", "InvertedDoublePendulum-v5", "Pusher-v5", "Reacher-v5")
TASKS = FAST + SHADOWED


def generator() -> th.Generator:
    return th.Generator().manual_seed(0)


def rows(*obs) -> th.Tensor:
    return th.as_tensor(np.stack(obs)).float()


def start(env, model, seed=0):
    obs, _ = env.reset(seed=seed)
    return model.reset(rows(obs), generator=generator())


def actions(model, *shape, seed=0, dtype=th.float32) -> th.Tensor:
    rng = np.random.default_rng(seed)
    return th.as_tensor(rng.uniform(-1, 1, (*shape, model.codec.size)), dtype=dtype)


def assert_same(prediction, truth, at) -> None:
    obs, reward, terminated, *_ = truth
    assert prediction.next_obs[at].dtype == prediction.reward.dtype == th.float64
    assert (prediction.next_obs[at].numpy() == obs).all()
    assert prediction.reward[at].item() == reward
    assert bool(prediction.terminated[at]) == terminated
