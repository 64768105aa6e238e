"""Open-loop prediction error of a model that gets the real actions but only the first real observation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from mbrl_wrappers.rows import num_rows
from mbrl_wrappers.seeding import torch_generator
from mbrl_wrappers.spaces import ActionCodec
from mbrl_wrappers.types import DynamicsModel


@dataclass(frozen=True)
class Episode:
    """One real episode: ``obs (T + 1, O)``, model actions ``action (T, A)``, ``reward (T,)``, whether it terminated."""

    obs: Tensor
    action: Tensor
    reward: Tensor
    terminated: bool


@dataclass(frozen=True)
class HorizonErrors:
    """Absolute errors in units of each dimension's standard deviation, all ``(H, starts, O)``.

    Attributes:
        model: of the model's predictions, 1 to ``H`` steps ahead.
        persistence: of the baseline that predicts no change.
    """

    model: Tensor
    persistence: Tensor


@dataclass(frozen=True)
class Comparison:
    """A segment of a real episode and ``M`` imagined trajectories under the same actions.

    Attributes:
        real_obs: ``(H + 1, O)``.
        real_reward: ``(H,)``.
        obs: ``(M, H + 1, O)``.
        reward: ``(M, H)``.
    """

    real_obs: Tensor
    real_reward: Tensor
    obs: Tensor
    reward: Tensor


def collect_episodes(
    env: VecEnv, agent: BaseAlgorithm, num_steps: int, *, deterministic: bool = False, max_episodes: int = 200
) -> list[Episode]:
    """Play whole episodes on one real environment until ``num_steps`` steps are there."""
    codec = ActionCodec(env.action_space)
    episodes: list[Episode] = []
    first = env.reset()
    assert isinstance(first, np.ndarray)
    obs, actions, rewards = [first[0].copy()], [], []
    while sum(len(episode.reward) for episode in episodes) < num_steps and len(episodes) < max_episodes:
        action = agent.predict(obs[-1][None], deterministic=deterministic)[0]
        actions.append(codec.from_env(action)[0])
        following, reward, done, info = env.step(action)
        assert isinstance(following, np.ndarray)
        rewards.append(float(reward[0]))
        obs.append(np.array(info[0]["terminal_observation"] if done[0] else following[0]))
        if done[0]:
            stacked = th.as_tensor(np.stack(obs), dtype=th.float32)
            terminated = not info[0].get("TimeLimit.truncated", False)
            episodes.append(Episode(stacked, th.stack(actions), th.tensor(rewards), terminated))
            obs, actions, rewards = [np.array(following[0])], [], []
    return episodes


@th.no_grad()
def horizon_errors(
    model: DynamicsModel[Any], episodes: Sequence[Episode], horizon: int, *, starts: int = 256, seed: int = 0
) -> HorizonErrors:
    """Errors of open-loop predictions from starts drawn uniformly from the episodes.

    Args:
        model: the model.
        episodes: real data that the model need not have seen.
        horizon: steps ahead, ``H``.
        starts: how many starts.
        seed: of starts and model noise.

    Raises:
        ValueError: if no episode is ``horizon`` steps long.
    """
    places = [(which, at) for which, e in enumerate(episodes) for at in range(len(e.reward) - horizon + 1)]
    if not places:
        longest = max((len(episode.reward) for episode in episodes), default=0)
        raise ValueError(f"No episode lasts {horizon} steps, the longest {longest}: choose a shorter --horizon.")
    rng = np.random.default_rng(seed)
    chosen = [places[index] for index in rng.choice(len(places), min(starts, len(places)), replace=False)]
    obs = th.stack([episodes[which].obs[at : at + horizon + 1] for which, at in chosen], 1)  # (H + 1, B, O)
    actions = th.stack([episodes[which].action[at : at + horizon] for which, at in chosen], 1)  # (H, B, A)
    scale = th.cat([episode.obs for episode in episodes]).std(0).clamp(min=1e-6)
    imagined, _ = imagine(model, obs[0], actions, seed=seed)
    return HorizonErrors((imagined[1:] - obs[1:]).abs() / scale, (obs[:1] - obs[1:]).abs() / scale)


@th.no_grad()
def imagine(
    model: DynamicsModel[Any], obs: Tensor, actions: Tensor, *, seed: int = 0, member: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Predict from ``obs (B, O)`` along ``actions (H, B, A)``: observations ``(H + 1, B, O)``, rewards ``(H, B)``.

    A predicted termination is passed over, so that all rows are comparable at all steps.

    Args:
        model: the model.
        obs: starts.
        actions: model actions.
        seed: of the model's noise.
        member: ``(B,)`` ensemble members that predict the rows throughout, in place of those the model draws.
    """
    generator = torch_generator(seed, model.device)
    state = model.reset(obs.to(model.device), generator=generator)
    seen, rewards = [obs], []
    for action in actions.to(model.device):
        if member is not None:
            state = state._replace(member=member)
        state, prediction = model.step(state, action, generator=generator)
        seen.append(prediction.next_obs.cpu())
        rewards.append(prediction.reward.cpu())
    assert num_rows(state) == len(obs)
    return th.stack(seen), th.stack(rewards)


def compare(model: Any, episode: Episode, start: int, horizon: int, *, trajectories: int = 5) -> Comparison:
    """Imagine a stretch of a real episode, once per elite of an ensemble or ``trajectories`` times otherwise.

    Args:
        model: the model; an ensemble is switched to one member per trajectory.
        episode: the real episode.
        start: first step of the stretch.
        horizon: its length; cut where the episode ends.
        trajectories: how many, for a model without members.
    """
    member = None
    if hasattr(model, "elites") and hasattr(model, "propagation"):
        member, model.propagation = model.elites, "tsinf"
        trajectories = len(member)
    stop = min(start + horizon, len(episode.reward))
    actions = episode.action[start:stop, None].expand(-1, trajectories, -1)
    obs, reward = imagine(model, episode.obs[start].expand(trajectories, -1), actions, member=member)
    return Comparison(
        episode.obs[start : stop + 1], episode.reward[start:stop], obs.transpose(0, 1), reward.transpose(0, 1)
    )
