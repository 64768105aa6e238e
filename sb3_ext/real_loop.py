"""An agent in the real environment, outside SB3's own loop: collecting into a store, and evaluating."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, cast

import gymnasium
import numpy as np
import torch as th
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, ProgressBarCallback
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor

from mbrl_wrappers.copies.env_state import env_state, load_env_state
from mbrl_wrappers.replay import TransitionStore
from mbrl_wrappers.seeding import (
    draw_seed,
    fenced_global_streams,
    set_torch_stream_state,
    spawn_seeds,
    torch_generator,
    torch_stream_state,
)
from mbrl_wrappers.spaces import in_dtype_of
from mbrl_wrappers.states import StateDict, require_keys
from sb3_ext.monitor_files import cut_monitor_files, monitor_file_sizes

GymEnv = gymnasium.Env[Any, Any]
STATS_WINDOW = 100


class Episode(NamedTuple):
    """The ``total`` reward and the ``length`` of an episode, or the means of some."""

    total: float
    length: float


class RealLoop:
    """Takes real steps with an agent whose own environment is a model.

    Args:
        env: the real environment.
        agent: its ``num_timesteps`` counts on by the steps taken here.
        store: receives every transition.
        seed: of the environment and of the actions drawn.
    """

    def __init__(self, env: GymEnv, agent: BaseAlgorithm, store: TransitionStore, *, seed: int) -> None:
        self.env, self.agent, self.store = env, agent, store
        self.statistics = RealStatistics(agent.get_vec_normalize_env())
        self.episodes: deque[Episode] = deque(maxlen=STATS_WINDOW)
        action_seed, policy_seed, env_seed, eval_seed = spawn_seeds(seed, 4)
        self._generator = torch_generator(policy_seed)
        self._eval_seed: int | None = eval_seed % 2**31
        self._running = Episode(0.0, 0)
        self._obs: NDArray[Any]
        env.action_space.seed(action_seed % 2**31)
        self._reset(seed=env_seed % 2**31)

    def collect(self, steps: int, callbacks: BaseCallback, *, random: bool) -> bool:
        """Take real steps into the store; returns False as soon as a callback asks to stop.

        Args:
            steps: how many.
            callbacks: called at each step, with the start and the end of a rollout around them all.
            random: draw uniform actions and not the agent's.
        """
        callbacks.on_rollout_start()
        for step in range(steps):
            if not random:
                self._renew_exploration(step)
            action = self.env.action_space.sample() if random else self._explore(self._obs)
            # A copy: some environments scale or clip the action in place, and what was asked for is stored.
            obs, reward, terminated, truncated, info = self.env.step(copy.copy(action))
            over = terminated or truncated
            self.store.add(self._obs, action, reward, obs, terminated, truncated)
            self._running = Episode(self._running.total + float(reward), self._running.length + 1)
            self.statistics.earn(float(reward))
            if over:
                self.episodes.append(self._running)
                self._reset()
            else:
                self._see(obs)
            self.agent.num_timesteps += 1
            callbacks.update_locals({"infos": [info], "rewards": [reward], "dones": [over]})
            if not callbacks.on_step():
                return False
        callbacks.on_rollout_end()
        return True

    def state_dict(self) -> StateDict:
        """Where the real episode is, the episodes lately, and the streams; the store and the agent are kept apart."""
        return {
            "env": env_state(self.env),
            "files": monitor_file_sizes(self.env),
            "episodes": [list(episode) for episode in self.episodes],
            "running": list(self._running),
            "stream": torch_stream_state(self._generator),
            "eval_seed": self._eval_seed,
            "obs": self._obs.copy(),
            "discounted_return": self.statistics.discounted_return,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; an environment whose state was not exported begins a new episode.

        Raises:
            ValueError: if it is the state of another environment.
        """
        require_keys(state, self.state_dict(), "a RealLoop")
        self.episodes = deque((Episode(*row) for row in state["episodes"]), STATS_WINDOW)
        self._eval_seed = state["eval_seed"]
        cut_monitor_files(self.env, state["files"])
        if state["env"] is None:
            set_torch_stream_state(self._generator, state["stream"])
            self._reset(seed=draw_seed(self._generator))
            return
        load_env_state(self.env, state["env"])
        self._running, self._obs = Episode(*state["running"]), state["obs"].copy()
        self.statistics.discounted_return = state["discounted_return"]
        set_torch_stream_state(self._generator, state["stream"])

    @property
    def observation(self) -> Tensor:
        """The observation ``(1, O)`` that the next real step starts from."""
        return th.as_tensor(self._obs)[None]

    def recent(self) -> Episode:
        """The means of the real episodes that ended lately, exploration included; NaN before the first."""
        return _mean(self.episodes)

    def evaluate(self, env: GymEnv, num_episodes: int) -> Episode:
        """The means of the agent's episodes in ``env``, acting deterministically; seeded once, before the first."""
        episodes = []
        for _ in range(num_episodes):
            obs, _ = env.reset(seed=self._eval_seed)
            self._eval_seed = None
            total, length, over = 0.0, 0, False
            while not over:
                obs, reward, terminated, truncated, _ = env.step(self._act(obs, deterministic=True))
                total, length, over = total + float(reward), length + 1, terminated or truncated
            episodes.append(Episode(total, length))
        return _mean(episodes)

    def _reset(self, seed: int | None = None) -> None:
        obs, _ = self.env.reset(seed=seed)
        self._running = Episode(0.0, 0)
        self.statistics.begin()
        self._see(obs)

    def _see(self, obs: object) -> None:
        # A copy: some environments write every observation into one array.
        self._obs = np.array(obs)
        self.statistics.see(self._obs)

    def _renew_exploration(self, step: int) -> None:
        """Draw a new gSDE matrix as often as SB3's own loop does: from rollout to rollout, or by ``sde_sample_freq``.

        Without it, all real steps of a cycle would explore with the matrix of the last imagined rollout.
        """
        agent: Any = self.agent
        if agent.use_sde and step % (agent.sde_sample_freq if agent.sde_sample_freq > 0 else agent.n_steps) == 0:
            with fenced_global_streams(draw_seed(self._generator)):
                agent.policy.reset_noise()

    def _explore(self, obs: NDArray[Any]) -> Any:
        """The agent's own stochastic action, drawn so that its random streams stay as they are."""
        with fenced_global_streams(draw_seed(self._generator)):
            return self._act(obs, deterministic=False)

    def _act(self, obs: NDArray[Any], *, deterministic: bool) -> Any:
        normalizer: Any = self.agent.get_vec_normalize_env()
        shown = obs if normalizer is None else normalizer.normalize_obs(obs)
        action, _ = self.agent.predict(shown, deterministic=deterministic)
        return in_dtype_of(self.env.action_space, action)[()]  # a Discrete action is a number


class RealStatistics:
    """Updates the ``VecNormalize`` around the model from *real* observations and rewards only.

    Imagined observations would add the model's errors to the statistics, and so distort the agent's view of the real
    environment. So they are updated here, step by step as ``VecNormalize`` would, and :meth:`frozen` while the
    agent learns in the model.

    Attributes:
        discounted_return: of the real episode under way.

    Args:
        normalizer: the agent's, or None. One with ``training=False`` was frozen by the user and stays as it is.
    """

    def __init__(self, normalizer: VecNormalize | None) -> None:
        self._normalizer = normalizer if normalizer is not None and normalizer.training else None
        self.discounted_return = 0.0

    def begin(self) -> None:
        """An episode begins."""
        self.discounted_return = 0.0

    def see(self, obs: NDArray[Any]) -> None:
        """Take an observation ``(O,)`` that the agent is about to act in."""
        if self._normalizer is not None and self._normalizer.norm_obs:
            cast(RunningMeanStd, self._normalizer.obs_rms).update(obs[None])

    def earn(self, reward: float) -> None:
        """Take the reward of a step into the statistics of the discounted return."""
        if self._normalizer is not None:
            self.discounted_return = self.discounted_return * self._normalizer.gamma + reward
            self._normalizer.ret_rms.update(np.array([self.discounted_return]))

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside the block the environment normalises with the statistics as they are."""
        if self._normalizer is None:
            yield
            return
        self._normalizer.training = False
        try:
            yield
        finally:
            self._normalizer.training = True


def open_real_env(name: str, env: object, made: ExitStack) -> GymEnv:
    """The environment; one made from its id is closed when ``made`` is.

    Raises:
        TypeError: if it is not a single Gymnasium environment; ``name`` says in the message which argument it was.
    """
    if isinstance(env, str):
        new: GymEnv = gymnasium.make(env)
        made.callback(new.close)
        return new
    if isinstance(env, VecEnv | VectorEnv):
        raise TypeError(
            f"{name} is a {type(env).__name__}, which is many environments, and real steps are taken in one: pass a "
            "single Gymnasium environment, or its id."
        )
    if not isinstance(env, gymnasium.Env):
        raise TypeError(f"{name} must be a Gymnasium environment or its id, got {type(env).__name__}.")
    return env


def check_eval_env(eval_env: GymEnv | None, env: GymEnv) -> None:
    """Raise a ``ValueError`` if scores on ``eval_env`` would not be those of the real task."""
    if eval_env is None:
        return
    if eval_env.metadata.get("is_model"):
        raise ValueError("eval_env is a model: scores in there are imagined. Evaluate on the real environment.")
    if eval_env.unwrapped is env.unwrapped:
        raise ValueError("eval_env is env itself, and its episode is under way: make another of the same kind.")
    if (eval_env.observation_space, eval_env.action_space) != (env.observation_space, env.action_space):
        raise ValueError("The spaces of eval_env are not those of env: make it in the same way.")


class RealProgress(ProgressBarCallback):
    """SB3's progress bar for real steps: one at a time, however many rows the agent's environment has."""

    def _on_step(self) -> bool:
        self.pbar.update(1)
        return True


def _mean(episodes: deque[Episode] | list[Episode]) -> Episode:
    return Episode(*np.mean(episodes, 0).tolist()) if episodes else Episode(np.nan, np.nan)
