"""Small agents that act on the beliefs of a small latent model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv

from mbrl_wrappers.latent import LatentOptions, LatentStateSpaceModel
from mbrl_wrappers.latent.model import Form
from mbrl_wrappers.tasks import MaskedObservation
from mbrl_wrappers.training.sequence_trainer import SequenceFitConfig, SequenceTrainer
from sb3_ext import DynaConfig
from sb3_ext.latent import BeliefReplayBuffer, BeliefVecEnv, LatentDynaCallback


def masked(steps: int = 200) -> Callable[[], gym.Env[Any, Any]]:
    """A pendulum that shows no velocity, in episodes of ``steps``."""
    return lambda: MaskedObservation(gym.make("Pendulum-v1", max_episode_steps=steps), [0, 1])


def small_model(form: Form = "belief", *, seed: int = 0, env: Any = None, **options: Any) -> LatentStateSpaceModel:
    """A model of that pendulum."""
    env = env or masked()()
    sizes: dict[str, Any] = {"latent_size": 2, "memory_size": 4, "hidden": (8,), "encoder_hidden": (8,)}
    chosen = LatentOptions(**{**sizes, "posterior": "factorised filter", **options})
    return LatentStateSpaceModel(
        env.observation_space, env.action_space, options=chosen, form=form, seed=seed, device="cpu"
    )


def small_agent(
    model: LatentStateSpaceModel, *, n_envs: int = 1, steps: int = 200, env: Any = None, **buffer: Any
) -> SAC:
    """SAC of narrow networks in that pendulum, behind the model's filter."""
    return SAC(
        "MlpPolicy",
        env or BeliefVecEnv(DummyVecEnv([masked(steps)] * n_envs), model, seed=1),
        learning_starts=20,
        batch_size=16,
        buffer_size=1000,
        seed=3,
        device="cpu",
        policy_kwargs={"net_arch": [8]},
        replay_buffer_class=BeliefReplayBuffer,
        replay_buffer_kwargs={"real_ratio": 0.5, "window": 4, **buffer},
    )


def small_callback(model: LatentStateSpaceModel, *, imagine: bool = True, **config: Any) -> LatentDynaCallback:
    """Fits of a few steps, whenever 20 real steps were taken."""
    fit = SequenceFitConfig(max_gradient_steps=3, batch_size=4, window=6, validate_every=3)
    rates: dict[str, Any] = {"model_train_freq": 20, "rollout_freq": 20, "rollouts_per_step": 2, "min_real_rows": 20}
    settings = DynaConfig(**{**rates, "first_fit_gradient_steps": 4, **config})
    return LatentDynaCallback(model, SequenceTrainer(model, fit), settings, imagine=imagine)
