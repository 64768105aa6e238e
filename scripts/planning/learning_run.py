"""A run of PETS that was checked and not yet started."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv

from controllers import MPCPolicy, PlannerLearningConfig
from scripts.planning.arguments import TrainPlannerArguments
from scripts.planning.settings import LEARNING_KEYS, PlannerSettings, read_settings, try_out
from scripts.training.configuration import RunConfiguration
from scripts.training.environments import make_env
from scripts.training.flag_checks import check_flags
from scripts.training.learned_model import LearnedModel, check_model_block
from scripts.training.phases import PhaseClock


@dataclass(frozen=True)
class PlannerRun:
    """A run that was checked and not yet started: the command line, how to plan, how to learn.

    Attributes:
        args: the command line.
        settings: planner and merged entry.
        learning: limits and rates.
        env_kwargs: arguments of the environment.
    """

    args: TrainPlannerArguments
    settings: PlannerSettings
    learning: PlannerLearningConfig
    env_kwargs: dict[str, Any]

    @property
    def config(self) -> RunConfiguration:
        """The merged entry, for the record."""
        return self.settings.config

    def env(self) -> gym.Env[Any, Any]:
        """One real environment of this run."""
        return make_env(self.args.env, self.env_kwargs, self.config.run.get("env_wrapper"))

    def model(self, env: gym.Env[Any, Any], clock: PhaseClock) -> LearnedModel:
        """The model of this run, not yet fitted."""
        args = self.args
        vec_env = DummyVecEnv([lambda: env])
        return LearnedModel(self.config.model, vec_env, clock, seed=args.seed, device=args.device, anew=True)

    def policy(self, model: Any) -> MPCPolicy[Any]:
        """The planner in ``model``."""
        settings = self.settings
        return MPCPolicy(
            model,
            settings.planner,
            settings.horizon,
            execute=settings.execute,
            seed=self.args.seed,
            **settings.objective,
        )


def plan_planner_run(args: TrainPlannerArguments) -> PlannerRun:
    """Resolve and check everything that can be wrong before a folder is made, building each part once for trial.

    Raises:
        ValueError: with what to change.
        ImportError: if a library is missing that a flag needs.
    """
    check_flags(args.env, args.device, progress=args.progress, tensorboard=bool(args.tensorboard_log))
    flags = {
        "horizon": args.horizon,
        "execute": args.execute,
        "particles": args.particles,
        "ensemble.propagation": args.propagation,
    }
    settings = read_settings(args.planner, args.env, "pets.yml", args.conf_file, args.hyperparams, flags)
    check_model_block(settings.config.model)
    env_kwargs = {**(settings.config.run.get("env_kwargs") or {}), **args.env_kwargs}
    run = PlannerRun(args, settings, PlannerLearningConfig(), env_kwargs)
    with closing(run.env()) as env:
        run = replace(run, learning=learning_config(args, settings, env))
        rates = asdict(run.learning)
        settings.config.run["n_timesteps"] = rates.pop("total_steps")
        settings.config.agent.update(rates)  # what the record says is what counts
        policy = run.policy(run.model(env, PhaseClock()).dynamics)
        try_out(policy, np.zeros(policy.observation_space.shape, np.float32))
    return run


def learning_config(
    args: TrainPlannerArguments, settings: PlannerSettings, env: gym.Env[Any, Any]
) -> PlannerLearningConfig:
    """Limits and rates: flags before the YAML file, the task's own time limit for a trial.

    Of -n and --trials, the one that is given alone is the only limit.
    """
    entry, run = settings.config.agent, settings.config.run
    rates: dict[str, Any] = {key: entry[key] for key in LEARNING_KEYS if key in entry}
    total, trials = run.get("n_timesteps"), rates.pop("trials", None)
    if args.n_timesteps > 0 or args.trials > 0:
        total = args.n_timesteps if args.n_timesteps > 0 else None
        trials = args.trials if args.trials > 0 else None
    limit = None if env.spec is None else env.spec.max_episode_steps
    if "trial_steps" not in rates and limit is not None:
        rates["trial_steps"] = limit
    return PlannerLearningConfig(total_steps=total, trials=trials, **rates)
