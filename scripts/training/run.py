"""A run that was checked and not yet started."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from scripts.training.algorithms import (
    ON_POLICY,
    action_noise,
    agent_class,
    agent_keys,
    policy_class,
    readable_config,
    readable_policy_kwargs,
)
from scripts.training.arguments import TrainArguments
from scripts.training.configuration import HYPERPARAMS_FOLDER, RunConfiguration, check_keys, load_configuration, merge
from scripts.training.environments import make_env, make_real_vec_env
from scripts.training.flag_checks import check_flags


@dataclass(frozen=True)
class TrainingRun:
    """Everything a run needs.

    Attributes:
        args: the command line.
        cls: the agent's class.
        config: merged hyperparameters; without a model the ``model`` block is empty.
        n_timesteps: real steps.
        env_kwargs: arguments of the environment.
    """

    args: TrainArguments
    cls: type[BaseAlgorithm]
    config: RunConfiguration
    n_timesteps: int
    env_kwargs: dict[str, Any]

    def env(self) -> gym.Env[Any, Any]:
        """One real environment of this run."""
        return make_env(self.args.env, self.env_kwargs, self.config.run.get("env_wrapper"))

    def vec_env(
        self, seed: int, *, n_envs: int = 1, monitor_folder: Path | None = None, append: bool = False
    ) -> DummyVecEnv:
        """Real environments of this run, as SB3 wants them; ``append`` goes on with the monitor files."""
        return make_real_vec_env(
            self.args.env,
            self.env_kwargs,
            seed,
            n_envs=n_envs,
            wrapper=self.config.run.get("env_wrapper"),
            monitor_folder=monitor_folder,
            append=append,
        )

    def build_agent(self, env: VecEnv, **extra: Any) -> BaseAlgorithm:
        """The agent, exactly as its library defines it.

        Args:
            env: what it trains on.
            **extra: further keyword arguments, such as the replay buffer of the model path.
        """
        kwargs: dict[str, Any] = {"verbose": self.args.verbose, **self.config.agent, **extra}
        if "policy_kwargs" in kwargs:
            kwargs["policy_kwargs"] = readable_policy_kwargs(kwargs["policy_kwargs"], self.args.backend)
        if "config" in kwargs:
            kwargs["config"] = readable_config(kwargs["config"], self.args.algo)
        noise = action_noise(self.config.run, env.action_space)
        if noise is not None:
            kwargs["action_noise"] = noise
        return self.cls(
            policy=policy_class(self.config.run.get("policy", "MlpPolicy"), self.args.algo, self.args.backend),
            env=env,
            seed=self.args.seed,
            device=self.args.device,
            tensorboard_log=self.args.tensorboard_log or None,
            **kwargs,
        )


def plan_run(args: TrainArguments) -> TrainingRun:
    """Resolve and check everything that can be wrong before a folder is made and that needs nothing to be built.

    Raises:
        ValueError: with what to change.
        ImportError: if a library is missing that the agent or a flag needs.
    """
    check_flags(args.env, args.device, progress=args.progress, tensorboard=bool(args.tensorboard_log))
    cls = agent_class(args.algo, args.backend)
    path = Path(args.conf_file) if args.conf_file else HYPERPARAMS_FOLDER / f"{args.algo}.yml"
    keys = agent_keys(cls)
    config = load_configuration(path, args.env, keys, args.hyperparams)
    config = _with_model(config, args, keys) if args.model else replace(config, model={})
    n_timesteps = args.n_timesteps if args.n_timesteps > 0 else int(config.run.get("n_timesteps", 0))
    if n_timesteps <= 0:
        raise ValueError(f"{path.name} names no n_timesteps for {args.env}; give it with -n.")
    config.run["n_timesteps"] = n_timesteps
    if args.updates_per_step is not None:
        config.agent["gradient_steps"] = _gradient_steps(args, config.agent.get("train_freq", 1))
    env_kwargs = {**(config.run.get("env_kwargs") or {}), **args.env_kwargs}
    return TrainingRun(args, cls, config, n_timesteps, env_kwargs)


def _with_model(config: RunConfiguration, args: TrainArguments, keys: list[str]) -> RunConfiguration:
    """The configuration with the model block's ``agent`` laid on the agent's, and the block checked."""
    from scripts.training.learned_model import check_model_block

    if args.algo in ON_POLICY and args.n_envs > 1:
        raise ValueError("With a model, on-policy agents collect from one real environment: leave --n-envs at 1.")
    model = dict(config.model)
    over = model.pop("agent", None) or {}
    check_keys(over, keys, "the model.agent block")
    ignored = [key for key in ("dyna", "starts") if args.algo in ON_POLICY and model.get(key)]
    if ignored:
        raise ValueError(
            f"The {ignored[0]} block is for off-policy agents; {args.algo} learns in imagined episodes, which begin "
            "where real ones do: see the imagination block."
        )
    check_model_block(model)
    return replace(config, agent=merge(config.agent, over), model=model)


def _gradient_steps(args: TrainArguments, train_freq: Any) -> int:
    """SB3's ``gradient_steps`` for so many updates per real step."""
    if args.algo in ON_POLICY:
        raise ValueError(f"--updates-per-step has no meaning for the on-policy {args.algo}.")
    if not isinstance(train_freq, int):
        raise ValueError(f"--updates-per-step needs an integer train_freq, got {train_freq!r}.")
    assert args.updates_per_step is not None
    return max(1, round(args.updates_per_step * train_freq * args.n_envs))
