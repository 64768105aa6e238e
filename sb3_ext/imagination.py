"""On-policy agents (PPO, A2C, TRPO) inside a model of the environment."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol, cast

import gymnasium
import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ProgressBarCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import configure_logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

from mbrl_wrappers.replay import TransitionStore
from mbrl_wrappers.seeding import spawn_seeds, torch_generator
from mbrl_wrappers.types import DynamicsModel, Transitions
from sb3_ext.agent_policy import AgentPolicy
from sb3_ext.default_model import build_default_dynamics
from sb3_ext.vec_env import ModelVecEnv

GymEnv = gymnasium.Env[Any, Any]
AgentFactory = Callable[[VecEnv], OnPolicyAlgorithm]
"""``factory(env) -> agent``: builds the agent on the model environment it is handed, and keeps it for life."""


class Fits(Protocol):
    """What fits the model, such as :class:`mbrl_wrappers.Trainer`."""

    def fit(self, transitions: Transitions) -> Any:
        """Fit to all real transitions and return a report."""
        ...


@dataclass(frozen=True)
class ImaginationConfig:
    """The rates of learning in imagination. Real steps are counted first, imagined ones are free.

    Attributes:
        initial_steps: real steps with uniformly random actions before the first fit.
        cycle_steps: real steps with the agent's own stochastic policy between fits.
        imagined_steps: steps the agent learns from in the model after each fit (rounded up by SB3 to whole rollouts).
        num_envs: imagined episodes side by side; tens to hundreds.
        horizon: length of an imagined episode; it starts at a stored real observation and ends in a truncation.
        store_size: real transitions kept.
        eval_freq: real steps between evaluations on ``eval_env``.
        eval_episodes: episodes per evaluation, with the deterministic policy.
    """

    initial_steps: int = 500
    cycle_steps: int = 500
    imagined_steps: int = 50_000
    num_envs: int = 64
    horizon: int = 50
    store_size: int = 1_000_000
    eval_freq: int = 1000
    eval_episodes: int = 10

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} must be at least 1, got {getattr(self, field.name)}.")


@dataclass(frozen=True)
class CycleRecord:
    """What one cycle of collecting, fitting and imagining came to.

    Attributes:
        real_steps: real steps so far.
        imagined_steps: imagined steps so far.
        real_return: mean return of the real episodes that ended lately (NaN before the first), explored and not evaluated.
        imagined_return: mean return of the imagined episodes that ended lately: a score in the model only.
        num_invalid: imagined episodes so far that ended by a prediction that was not believed.
        eval_return: mean return of the evaluation episodes on the real environment, or None without an evaluation.
        fit: the trainer's report, or None without a trainer.
    """

    real_steps: int
    imagined_steps: int
    real_return: float
    imagined_return: float
    num_invalid: int
    eval_return: float | None
    fit: Any


@dataclass(frozen=True)
class ImaginationResult:
    """The trained agent (its environment is the model's), the model, the real data and a record of each cycle."""

    agent: OnPolicyAlgorithm
    dynamics: DynamicsModel[Any]
    store: TransitionStore
    log: tuple[CycleRecord, ...]

    @property
    def real_steps(self) -> int:
        """Steps taken in the real environment for training."""
        return self.store.steps_seen


def learn_in_imagination(
    agent: type[OnPolicyAlgorithm] | AgentFactory,
    env: GymEnv | str,
    total_timesteps: int,
    *,
    config: ImaginationConfig | None = None,
    dynamics: DynamicsModel[Any] | None = None,
    trainer: Fits | None = None,
    callback: MaybeCallback = None,
    eval_env: GymEnv | None = None,
    progress_bar: bool = False,
    seed: int = 0,
) -> ImaginationResult:
    """Train an unmodified on-policy agent in a model that is refitted to what the agent does in the real environment.

    In each cycle the agent's stochastic policy collects real steps, the model is refitted to all of them, and the agent
    learns with its own ``learn()`` in a :class:`ModelVecEnv` whose episodes start at stored real observations
    (ME-TRPO, Kurutach et al. 2018, algorithm 2, with horizons cut short as in MBPO). ``agent.num_timesteps`` counts real
    steps between cycles, and so do the callbacks and the logger, whose ``rollout/`` and ``eval/`` entries are real while
    imagined ones stand under ``dyna/``.

    >>> learn_in_imagination(PPO, "InvertedPendulum-v5", 10_000)                                   # doctest: +SKIP
    >>> learn_in_imagination(lambda env: PPO("MlpPolicy", env, n_steps=32), real_env, 10_000)      # doctest: +SKIP

    Args:
        agent: an agent class (an MLP policy with rollouts as long as the horizon), or a function that builds the agent on
            the model environment; ``VecNormalize`` may be put around it there. Schedules must be constant.
        env: the real environment or its id; one that was made for this call is closed afterwards.
        total_timesteps: real steps.
        config: how often and how much.
        dynamics: the model; by default an ensemble with the task's own termination and, where exact, reward. Without a
            ``trainer`` a model given here is taken as it is.
        trainer: fits ``dynamics``.
        callback: SB3 callbacks, called at each *real* step. (Their ``training_env`` is the model's.)
        eval_env: another real environment, to evaluate the deterministic policy on.
        progress_bar: show real steps.
        seed: of environment, model, imagination and collection, and of the agent when a class is given.

    Raises:
        TypeError: for an agent that is not on-policy or is recurrent, or spaces that models cannot handle.
        ValueError: for schedules that change, or an ``eval_env`` that is itself a model.
    """
    if total_timesteps < 1:
        raise ValueError(f"total_timesteps must be at least 1, got {total_timesteps}.")
    if trainer is not None and dynamics is None:
        raise ValueError("A trainer came without its model: pass dynamics, the model that it fits, as well.")
    if eval_env is not None and eval_env.metadata.get("is_model"):
        raise ValueError("eval_env is a model: scores in there are imagined. Evaluate on the real environment.")
    real_env = gymnasium.make(env) if isinstance(env, str) else env
    try:
        conductor = _Conductor(agent, real_env, config or ImaginationConfig(), dynamics, trainer, eval_env, seed)
        return conductor.run(total_timesteps, callback, progress_bar)
    finally:
        if isinstance(env, str):
            real_env.close()


class _Conductor:
    """Holds the parts of one run and moves the data between them."""

    def __init__(
        self,
        agent: type[OnPolicyAlgorithm] | AgentFactory,
        env: GymEnv,
        config: ImaginationConfig,
        dynamics: DynamicsModel[Any] | None,
        trainer: Fits | None,
        eval_env: GymEnv | None,
        seed: int,
    ) -> None:
        self.config, self.env, self.eval_env = config, env, eval_env
        model_seed, trainer_seed, policy_seed, action_seed = spawn_seeds(seed, 4)
        if dynamics is None:
            dynamics, trainer = default_model_and_trainer(env, model_seed, trainer_seed)
        self.dynamics, self.trainer = dynamics, trainer
        self.store = TransitionStore(config.store_size, env.observation_space, env.action_space)
        self.model_env = ModelVecEnv(dynamics, self.store, config.num_envs, config.horizon)
        self.model_env.seed(seed)
        self.agent = build_agent(agent, VecMonitor(self.model_env), config, seed)
        self.policy = AgentPolicy(self.agent)
        self.greedy = AgentPolicy(self.agent, deterministic=True)
        self.generator = torch_generator(policy_seed)
        env.action_space.seed(action_seed % 2**31)
        self.obs, _ = env.reset(seed=seed)
        self.eval_seed: int | None = seed + 1
        self.next_eval = config.eval_freq
        self.real_returns: deque[tuple[float, int]] = deque(maxlen=100)
        self.episode = (0.0, 0)  # return and length of the real episode under way
        self.imagined_steps = 0
        self.seconds = {"fit": 0.0, "imagine": 0.0}

    def run(self, total_timesteps: int, callback: MaybeCallback, progress_bar: bool) -> ImaginationResult:
        """Collect, fit, imagine, until the real steps are spent or a callback says stop."""
        callbacks = self._init_callbacks(callback, progress_bar)
        callbacks.on_training_start({"total_timesteps": total_timesteps, "self": self.agent}, {})
        log: list[CycleRecord] = []
        going = True
        while going and self.store.steps_seen < total_timesteps:
            wanted = self.config.cycle_steps if log else self.config.initial_steps
            going = self.collect(min(wanted, total_timesteps - self.store.steps_seen), callbacks, random=not log)
            if not going:
                break
            report = self.fit()
            imagined_return = self.imagine()
            log.append(self.record(report, imagined_return, last=self.store.steps_seen >= total_timesteps))
        callbacks.on_training_end()
        return ImaginationResult(self.agent, self.dynamics, self.store, tuple(log))

    def collect(self, steps: int, callbacks: BaseCallback, *, random: bool) -> bool:
        """Take real steps into the store; False if a callback asked to stop."""
        callbacks.on_rollout_start()
        for _ in range(steps):
            action = self.env.action_space.sample() if random else self._act(self.policy, self.obs)
            obs, reward, terminated, truncated, info = self.env.step(action)
            self.store.add(self.obs, action, reward, obs, terminated, truncated)
            self.episode = (self.episode[0] + float(reward), self.episode[1] + 1)
            self.obs = obs
            if terminated or truncated:
                self.real_returns.append(self.episode)
                self.episode = (0.0, 0)
                self.obs, _ = self.env.reset()
            self.agent.num_timesteps += 1
            callbacks.update_locals({"infos": [info], "rewards": [reward], "dones": [terminated or truncated]})
            if not callbacks.on_step():
                return False
        callbacks.on_rollout_end()
        return True

    def fit(self) -> Any:
        """Refit the model to all real data; None without a trainer."""
        if self.trainer is None:
            return None
        started = time.perf_counter()
        report = self.trainer.fit(self.store.transitions())
        self.seconds["fit"] += time.perf_counter() - started
        return report

    def imagine(self) -> float:
        """Let the agent learn in the model; returns the mean imagined return."""
        started = time.perf_counter()
        agent, real_steps = self.agent, self.store.steps_seen
        # Fresh episodes: the old ones go on from a model that no longer exists.
        agent.set_env(cast(VecEnv, agent.get_env()))
        # No log rows of the agent's own: it would count imagined steps and call their returns rollout/.
        agent.learn(self.config.imagined_steps, log_interval=cast(int, None), reset_num_timesteps=False)
        self.imagined_steps += agent.num_timesteps - real_steps
        agent.num_timesteps = real_steps
        episodes = agent.ep_info_buffer or ()
        imagined_return = float(np.mean([episode["r"] for episode in episodes])) if episodes else float("nan")
        if agent.ep_info_buffer is not None:
            agent.ep_info_buffer.clear()
        self.seconds["imagine"] += time.perf_counter() - started
        return imagined_return

    def record(self, report: Any, imagined_return: float, *, last: bool) -> CycleRecord:
        """Evaluate if due, write one row to the logger and return it."""
        steps, logger = self.store.steps_seen, self.agent.logger
        eval_return = None
        if self.eval_env is not None and (last or steps >= self.next_eval):
            self.next_eval = steps + self.config.eval_freq
            eval_return, eval_length = self.evaluate(self.eval_env)
            logger.record("eval/mean_reward", eval_return)
            logger.record("eval/mean_ep_length", eval_length)
        real_return = float("nan")
        if self.real_returns:
            real_return, real_length = np.mean(self.real_returns, 0).tolist()
            logger.record("rollout/ep_rew_mean", real_return)
            logger.record("rollout/ep_len_mean", real_length)
        logger.record("dyna/imagined_return", imagined_return)
        logger.record("dyna/imagined_steps", self.imagined_steps)
        logger.record("dyna/num_invalid", self.model_env.num_invalid)
        logger.record("dyna/fit_seconds", self.seconds["fit"])
        logger.record("dyna/imagine_seconds", self.seconds["imagine"])
        logger.record("time/total_timesteps", steps, exclude="tensorboard")
        if report is not None:
            logger.record("model/r2_mean", float(np.mean(report.holdout_r2)))
            logger.record("model/r2_min", float(np.min(report.holdout_r2)))
            logger.record("model/holdout_error", float(np.mean(report.holdout_error)))
            logger.record("model/epochs", report.epochs)
            logger.record("model/gradient_steps", report.gradient_steps)
        logger.dump(steps)
        invalid = self.model_env.num_invalid
        return CycleRecord(steps, self.imagined_steps, real_return, imagined_return, invalid, eval_return, report)

    def evaluate(self, env: GymEnv) -> tuple[float, float]:
        """Mean return and length of the deterministic policy's episodes in ``env``."""
        outcomes = []
        for _ in range(self.config.eval_episodes):
            obs, _ = env.reset(seed=self.eval_seed)
            self.eval_seed = None
            total, length, over = 0.0, 0, False
            while not over:
                obs, reward, terminated, truncated, _ = env.step(self._act(self.greedy, obs))
                total, length, over = total + float(reward), length + 1, terminated or truncated
            outcomes.append((total, length))
        mean_return, mean_length = np.mean(outcomes, 0).tolist()
        return mean_return, mean_length

    def _act(self, policy: AgentPolicy, obs: NDArray[Any]) -> Any:
        model_action = policy(th.as_tensor(np.asarray(obs)[None]), generator=self.generator)
        return policy.codec.to_env(model_action)[0]

    def _init_callbacks(self, callback: MaybeCallback, progress_bar: bool) -> BaseCallback:
        if not self.agent._custom_logger:  # as learn() would set it up, once for all chunks
            self.agent.set_logger(configure_logger(self.agent.verbose, self.agent.tensorboard_log, "imagination", True))
        self.agent.num_timesteps = 0
        given = callback if isinstance(callback, list) else [] if callback is None else [callback]
        for item in given:
            if not isinstance(item, BaseCallback):
                raise TypeError(f"callback must be SB3 callbacks (BaseCallback), got {type(item).__name__}.")
        callbacks = CallbackList(
            [*cast("list[BaseCallback]", given), *([ProgressBarCallback()] if progress_bar else [])]
        )
        with warnings.catch_warnings():
            # True and intended: the agent trains in the model and is judged on the real environment.
            warnings.filterwarnings("ignore", "Training and eval env are not of the same type")
            callbacks.init_callback(self.agent)
        return callbacks


def build_agent(
    agent: type[OnPolicyAlgorithm] | AgentFactory, env: VecEnv, config: ImaginationConfig, seed: int
) -> OnPolicyAlgorithm:
    """The agent on the model environment, checked for what cannot work in here.

    Raises:
        TypeError: if it is not on-policy, or recurrent.
        ValueError: if a schedule changes, or the agent was built on another environment.
    """
    if isinstance(agent, type):
        if not issubclass(agent, OnPolicyAlgorithm):
            raise TypeError(
                f"{agent.__name__} is not an on-policy agent. SAC, TD3, DDPG, DQN and their like learn model-based with "
                "DynaCallback and replay_buffer_class=MixedReplayBuffer."
            )
        # Rollouts of one horizon each; PPO's minibatches then divide a rollout whatever the horizon is.
        batch = {"batch_size": env.num_envs} if "batch_size" in agent.__init__.__code__.co_varnames else {}
        built = cast(Any, agent)("MlpPolicy", env, n_steps=config.horizon, seed=seed, **batch)
    else:
        built = agent(env)
    if not isinstance(built, OnPolicyAlgorithm):
        raise TypeError(f"The agent factory must return a PPO, A2C, TRPO or the like, got {type(built).__name__}.")
    if hasattr(built.policy, "lstm_actor"):
        raise TypeError(
            "Recurrent agents are not supported: their memory does not fit branches from stored observations."
        )
    inner = built.get_env()
    if inner is None or inner.unwrapped is not env.unwrapped:
        raise ValueError(
            "The agent factory must build the agent on the environment it is handed: factory(env) -> agent."
        )
    for name in ("lr_schedule", "clip_range", "clip_range_vf"):
        schedule = getattr(built, name, None)
        if callable(schedule) and schedule(1.0) != schedule(0.5):
            raise ValueError(
                f"{name.removesuffix('_schedule')} changes with progress, but each of the many short calls of learn() would "
                "run through it anew: use a constant."
            )
    return built


def default_model_and_trainer(env: GymEnv, model_seed: int, trainer_seed: int) -> tuple[DynamicsModel[Any], Fits]:
    """An ensemble for ``env`` with the task's own functions, and what fits it."""
    from mbrl_wrappers.training import FitConfig, Trainer

    dynamics = build_default_dynamics(DummyVecEnv([lambda: env]), seed=model_seed, device="cpu").dynamics
    return dynamics, Trainer(dynamics, FitConfig(max_gradient_steps=500), seed=trainer_seed)
