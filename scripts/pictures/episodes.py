"""Playing whole episodes with an agent, in the real environment or inside a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm

from scripts.pictures.video import Film


@dataclass(frozen=True)
class EpisodeResult:
    """The outcome of one episode.

    Attributes:
        total: sum of rewards.
        length: steps.
        ended_by: ``"termination"``, ``"time limit"`` or ``"invalid prediction"``.
    """

    total: float
    length: int
    ended_by: str


def play_episode(
    env: gym.Env[Any, Any], agent: BaseAlgorithm, seed: int, *, deterministic: bool = True, film: Film | None = None
) -> EpisodeResult:
    """Play one episode.

    Args:
        env: a real environment, or a model's.
        agent: who plays.
        seed: of the start.
        deterministic: take the mean action in place of a draw.
        film: receives ``env.render()`` before each step and at the end.
    """
    obs, _ = env.reset(seed=seed)
    total, length = 0.0, 0
    while True:
        if film is not None:
            film.add(env.render())
        action, _ = agent.predict(obs, deterministic=deterministic)
        obs, reward, terminated, truncated, info = env.step(action)
        total, length = total + float(reward), length + 1
        if terminated or truncated:
            break
    if film is not None:
        film.add(env.render())
    ended_by = "termination" if terminated else "invalid prediction" if info.get("invalid") else "time limit"
    return EpisodeResult(total, length, ended_by)
