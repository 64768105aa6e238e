"""The loop that tabular agents share: Stable-Baselines3's interface around one update per real step."""

from __future__ import annotations

import math
import sys
import time
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import LinearSchedule, safe_mean
from stable_baselines3.common.vec_env import VecNormalize

from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.seeding import global_streams_state, set_global_streams_state
from mbrl_wrappers.states import StateDict, require_keys
from mbrl_wrappers.tabular_data import TabularTransitions, check_tabular_spaces
from sb3_ext.agent_state import agent_state, load_agent_state
from sb3_ext.agents.planning_memory import PlanningMemory, Tables, remember, views
from sb3_ext.agents.step_checks import finite_rewards, rows_seen, successor_rows
from sb3_ext.agents.tabular_policy import TabularPolicy
from sb3_ext.agents.tabular_state import load_tabular_state, tabular_state
from sb3_ext.vec_env_state import load_vec_env_state, vec_env_state

ENOUGH_STEPS, MOST_SURPRISES = 500, 0.05

Agent = TypeVar("Agent", bound="TabularAgent")


class TabularAgent(BaseAlgorithm):
    """Base class of the tabular agents; see :class:`~sb3_ext.agents.DynaQ` for the arguments.

    It is a :class:`~stable_baselines3.common.base_class.BaseAlgorithm`, so ``save``, ``load``, ``set_env``, callbacks,
    loggers and ``evaluate_policy`` are SB3's own. Callbacks see each step as a rollout of one, as with
    ``train_freq=1``; ``_on_step`` is called before the step is learned from. With several environments every one's
    transition is learned from in turn.

    Draws come from a generator of the agent's own, which is saved with it: after saving and loading, training continues
    as if it had not been interrupted. ``predict(deterministic=False)`` draws from a second one, so evaluation does not
    affect training.

    (The constructor takes the arguments of SB3's off-policy agents in their order, hence more than eight.)
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"TabularPolicy": TabularPolicy}
    policy: TabularPolicy
    memory: PlanningMemory

    def __init__(
        self,
        policy: str | type[TabularPolicy] = "TabularPolicy",
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 0.1,
        gamma: float = 0.95,
        planning_steps: int = 50,
        exploration_fraction: float = 0.1,
        exploration_initial_eps: float = 0.1,
        exploration_final_eps: float = 0.1,
        outcomes_kept: int = 1,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if str(device) not in ("auto", "cpu"):
            raise ValueError(f"Tables live in the memory of the processor: device must be 'cpu', got {device!r}.")
        super().__init__(
            policy,
            env,
            learning_rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device="cpu",
            support_multi_env=True,
            seed=seed,
        )
        self.gamma = within("gamma", gamma, 0.0, 1.0)
        self.planning_steps = at_least("planning_steps", planning_steps, 0)
        self.outcomes_kept = at_least("outcomes_kept", outcomes_kept)
        self.exploration_fraction = within("exploration_fraction", exploration_fraction, sys.float_info.min, 1.0)
        self.exploration_initial_eps = within("exploration_initial_eps", exploration_initial_eps, 0.0, 1.0)
        self.exploration_final_eps = within("exploration_final_eps", exploration_final_eps, 0.0, 1.0)
        self.exploration_rate = self.exploration_initial_eps
        self.num_planning_updates = 0
        self._surprises = 0
        self._errors = [0.0, 0.0]  # sum of absolute errors since the last log, of real updates and of planning
        self._updates_logged = [0, 0]
        self._rng: np.random.Generator | None = None
        self._predict_rng: np.random.Generator | None = None
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        check_tabular_spaces(self.observation_space, self.action_space, type(self).__name__)
        self._refuse_normalisation()
        self._setup_lr_schedule()
        self.exploration_schedule = LinearSchedule(
            self.exploration_initial_eps, self.exploration_final_eps, self.exploration_fraction
        )
        streams = self._rng, self._predict_rng  # those of a file, if the agent was loaded
        self.set_random_seed(self.seed)
        if self._rng is None:
            self._seed_streams(None)
        if streams[0] is not None:
            self._rng, self._predict_rng = streams
        policy = self.policy_class(self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs)
        assert isinstance(policy, TabularPolicy)
        self.policy = policy
        num_states, self._num_actions = policy.q_table.shape
        self.memory = PlanningMemory(num_states, self._num_actions, self.outcomes_kept)
        self._arrays = self.memory.arrays(policy.q_table)
        self._tables: Tables = views(self._arrays)

    def _refuse_normalisation(self) -> None:
        if isinstance(self._vec_normalize_env, VecNormalize):
            raise TypeError(f"{type(self).__name__} takes rewards as they are: leave VecNormalize out.")

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Continue on another environment of the same spaces."""
        super().set_env(env, force_reset)
        self._refuse_normalisation()

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed the agent's own draws, and whatever SB3 seeds."""
        super().set_random_seed(seed)
        if seed is not None:
            self._seed_streams(seed)

    def _seed_streams(self, seed: int | None) -> None:
        self._rng, self._predict_rng = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(2))

    # --- acting -----------------------------------------------------------------------------------------------------

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """The greedy action, or with ``deterministic=False`` the epsilon-greedy one, drawn independently per row."""
        action, state = self.policy.predict(observation, state, episode_start, deterministic)
        if not deterministic:
            assert self._predict_rng is not None
            coins = self._predict_rng.random(action.shape)
            others = self._predict_rng.integers(self._num_actions, size=action.shape) + self.policy.first_action
            action = np.where(coins < self.exploration_rate, others, action)
        return action, state

    def _explore(self, state: int, coin: float, pick: float) -> int:
        """Epsilon-greedy with ties broken at random; states and actions counted from 0."""
        if coin < self.exploration_rate:
            return int(pick * self._num_actions)
        values = self._tables.q[state * self._num_actions : (state + 1) * self._num_actions].tolist()
        best = max(values)
        ties = [action for action, value in enumerate(values) if value == best]
        return ties[int(pick * len(ties))]

    # --- learning ---------------------------------------------------------------------------------------------------

    def learn(
        self: Agent,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Agent:
        """Take ``total_timesteps`` real steps and learn from each; logs every ``log_interval`` episodes."""
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name or type(self).__name__, progress_bar
        )
        self._schedule()
        callback.on_training_start(locals(), globals())
        assert self.env is not None
        env, rng = self.env, self._rng
        assert rng is not None
        while self.num_timesteps < total_timesteps:
            callback.on_rollout_start()
            states = rows_seen(self._last_obs, self.observation_space, self.num_timesteps)
            draws = rng.random((env.num_envs, 2)).tolist()
            chosen = [self._explore(state, *draw) for state, draw in zip(states, draws, strict=True)]
            actions = np.array(chosen) + self.policy.first_action
            new_obs, rewards, dones, infos = env.step(actions)
            assert isinstance(new_obs, np.ndarray)
            self.num_timesteps += env.num_envs
            self._last_obs = new_obs
            callback.update_locals(locals())
            if not callback.on_step():
                break
            self._update_info_buffer(infos, dones)
            paid = finite_rewards(rewards, self.num_timesteps)
            following = successor_rows(new_obs, dones, infos, self.observation_space, self.num_timesteps)
            for index, (state, action) in enumerate(zip(states, chosen, strict=True)):
                terminated = bool(dones[index]) and not infos[index].get("TimeLimit.truncated", False)
                self._learn_from(state, action, paid[index], following[index], terminated)
            self._schedule()
            self._count_episodes(dones, log_interval)
            callback.on_rollout_end()
        callback.on_training_end()
        self._warn_of_chance()
        return self

    def _warn_of_chance(self) -> None:
        certain = self.outcomes_kept > 1 or self.planning_steps == 0
        if not certain and self._n_updates >= ENOUGH_STEPS and self._surprises > MOST_SURPRISES * self._n_updates:
            warnings.warn(
                f"In {self._surprises} of {self._n_updates} steps an action did something else than the last time, so "
                "this environment is stochastic, and the agent plans as if it were not: keep more outcomes of each "
                "action, such as outcomes_kept=50.",
                stacklevel=3,
            )

    def _schedule(self) -> None:
        self._update_current_progress_remaining(self.num_timesteps, max(self._total_timesteps, 1))
        self.exploration_rate = float(self.exploration_schedule(self._current_progress_remaining))
        self._step_size = float(self.lr_schedule(self._current_progress_remaining))
        if not 0 <= self._step_size < math.inf:
            raise ValueError(f"learning_rate must be finite and at least 0, got {self._step_size} from its schedule.")

    def _learn_from(self, state: int, action: int, reward: float, next_state: int, terminated: bool) -> None:
        """Learn from one real transition, numbers counted from 0."""
        pair = state * self._num_actions + action
        alive = 0.0 if terminated else 1.0
        self._errors[0] += abs(self._update_from_step(pair, reward, next_state, alive))
        self._surprises += remember(self._tables, self.outcomes_kept, pair, state, reward, next_state, alive)
        self._n_updates += 1
        errors, updates = self._plan(state, pair)
        self._errors[1] += errors
        self.num_planning_updates += updates

    def _update_from_step(self, pair: int, reward: float, next_state: int, alive: float) -> float:
        """The Q-learning update on a real transition; returns its error."""
        q = self._tables.q
        best = max(q[next_state * self._num_actions : (next_state + 1) * self._num_actions])
        error: float = reward + self.gamma * alive * best - q[pair]
        q[pair] += self._step_size * error
        return error

    @abstractmethod
    def _plan(self, state: int, pair: int) -> tuple[float, int]:
        """Planning updates after the real step of ``pair``: the sum of absolute errors and how many there were."""

    def known_transitions(self) -> TabularTransitions:
        """What the agent remembers, to fit a :class:`~mbrl_wrappers.TabularModel` with."""
        return self.memory.transitions(self.policy.first_state, self.policy.first_action)

    # --- logging and saving -----------------------------------------------------------------------------------------

    def _count_episodes(self, dones: NDArray[np.bool_], log_interval: int | None) -> None:
        for _ in range(int(dones.sum())):
            self._episode_num += 1
            if log_interval is not None and self._episode_num % log_interval == 0:
                self.dump_logs()

    def dump_logs(self) -> None:
        """Write SB3's keys of an off-policy agent, and the mean absolute errors of the updates since the last time.

        These are ``train/td_error`` and ``train/planning_td_error``.
        """
        assert self.ep_info_buffer is not None
        assert self.ep_success_buffer is not None
        record = self.logger.record
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        if self.ep_info_buffer and self.ep_info_buffer[0]:
            record("rollout/ep_rew_mean", safe_mean([info["r"] for info in self.ep_info_buffer]))
            record("rollout/ep_len_mean", safe_mean([info["l"] for info in self.ep_info_buffer]))
        if self.ep_success_buffer:
            record("rollout/success_rate", safe_mean(self.ep_success_buffer))
        record("rollout/exploration_rate", self.exploration_rate)
        record("time/episodes", self._episode_num, exclude="tensorboard")
        record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / elapsed))
        record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        record("train/learning_rate", self._step_size)
        record("train/n_updates", self._n_updates, exclude="tensorboard")
        record("train/planning_updates", self.num_planning_updates, exclude="tensorboard")
        record("train/known_pairs", int((self._arrays.tries > 0).sum()))
        counts = (self._n_updates, self.num_planning_updates)
        for index, name in enumerate(("train/td_error", "train/planning_td_error")):
            since = counts[index] - self._updates_logged[index]
            if since > 0:
                record(name, self._errors[index] / since)
        self._errors, self._updates_logged = [0.0, 0.0], list(counts)
        self.logger.dump(step=self.num_timesteps)

    def own_state(self) -> StateDict:
        """What an agent holds besides what every SB3 agent does; a run checkpoint keeps it with the rest."""
        return tabular_state(self)

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``.

        Raises:
            ValueError: if it is the state of an agent with other settings.
        """
        load_tabular_state(self, state)

    def state_dict(self) -> StateDict:
        """The whole run between two steps: agent, live environment (None where it cannot be exported), and streams."""
        env = None if self.env is None else vec_env_state(self.env)
        return {"agent": agent_state(self), "env": env, "streams": global_streams_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``: ``learn(remaining, reset_num_timesteps=False)`` then does what would have come next.

        An environment whose state was not exported begins a new episode.

        Raises:
            ValueError: if it is the state of another agent or environment.
        """
        require_keys(state, ("agent", "env", "streams"), type(self).__name__)
        if state["env"] is not None and self.env is not None:
            load_vec_env_state(self.env, state["env"])
        load_agent_state(self, state["agent"])
        if state["env"] is None:
            self._last_obs = None  # learn() resets the environment then
        set_global_streams_state(state["streams"])

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "memory"], []

    def _excluded_save_params(self) -> list[str]:
        # Views of the tables' bytes: made anew around what is loaded.
        return [*super()._excluded_save_params(), "_tables", "_arrays"]
