"""An agent in the real environment, outside SB3's own loop: collecting into a store, and evaluating."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from mbrl_wrappers.replay import TransitionStore
from mbrl_wrappers.seeding import spawn_seeds, torch_generator
from sb3_ext.agent_policy import AgentPolicy

GymEnv = gymnasium.Env[Any, Any]
STATS_WINDOW = 100


class Episode(NamedTuple):
    """The ``total`` reward and the ``length`` of an episode, or the means of some."""

    total: float
    length: float


class RealLoop:
    """Takes the real steps of an agent that itself lives in a model.

    Args:
        env: the real environment.
        agent: its ``num_timesteps`` counts the steps taken here.
        store: receives every transition.
        seed: of the environment and of the actions drawn.
    """

    def __init__(self, env: GymEnv, agent: BaseAlgorithm, store: TransitionStore, *, seed: int) -> None:
        self.env, self.agent, self.store = env, agent, store
        self.episodes: deque[Episode] = deque(maxlen=STATS_WINDOW)
        action_seed, policy_seed, env_seed, eval_seed = spawn_seeds(seed, 4)
        self._explore = AgentPolicy(agent)
        self._exploit = AgentPolicy(agent, deterministic=True)
        self._generator = torch_generator(policy_seed)
        self._eval_seed: int | None = eval_seed % 2**31
        env.action_space.seed(action_seed % 2**31)
        self._obs, _ = env.reset(seed=env_seed % 2**31)
        self._running = Episode(0.0, 0)

    def collect(self, steps: int, callbacks: BaseCallback, *, random: bool) -> bool:
        """Take real steps into the store; returns False as soon as a callback asks to stop.

        Args:
            steps: how many.
            callbacks: called at each step, with the start and the end of a rollout around them all.
            random: draw uniform actions and not the agent's.
        """
        callbacks.on_rollout_start()
        for _ in range(steps):
            action = self.env.action_space.sample() if random else self._act(self._explore, self._obs)
            obs, reward, terminated, truncated, info = self.env.step(action)
            over = terminated or truncated
            self.store.add(self._obs, action, reward, obs, terminated, truncated)
            self._running = Episode(self._running.total + float(reward), self._running.length + 1)
            self._obs = obs
            if over:
                self.episodes.append(self._running)
                self._running = Episode(0.0, 0)
                self._obs, _ = self.env.reset()
            self.agent.num_timesteps += 1
            callbacks.update_locals({"infos": [info], "rewards": [reward], "dones": [over]})
            if not callbacks.on_step():
                return False
        callbacks.on_rollout_end()
        return True

    def recent(self) -> Episode:
        """The means of the real episodes that ended lately, exploration included; NaN before the first."""
        return _mean(self.episodes)

    def evaluate(self, env: GymEnv, num_episodes: int) -> Episode:
        """The means of the agent's episodes in ``env``, acting deterministically."""
        episodes = []
        for _ in range(num_episodes):
            obs, _ = env.reset(seed=self._eval_seed)
            self._eval_seed = None
            total, length, over = 0.0, 0, False
            while not over:
                obs, reward, terminated, truncated, _ = env.step(self._act(self._exploit, obs))
                total, length, over = total + float(reward), length + 1, terminated or truncated
            episodes.append(Episode(total, length))
        return _mean(episodes)

    def _act(self, policy: AgentPolicy, obs: NDArray[Any]) -> Any:
        model_action = policy(th.as_tensor(np.asarray(obs)[None]), generator=self._generator)
        return policy.codec.to_env(model_action)[0]


def _mean(episodes: deque[Episode] | list[Episode]) -> Episode:
    return Episode(*np.mean(episodes, 0).tolist()) if episodes else Episode(np.nan, np.nan)
