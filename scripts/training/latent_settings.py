"""Settings of ``train_latent.py``, and the task and the model that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from mbrl_wrappers.latent import LatentOptions, LatentStateSpaceModel
from mbrl_wrappers.tasks import (
    FrameObservation,
    MaskedObservation,
    NoisyObservation,
    StackedObservation,
    never_terminates,
    task_functions,
)
from mbrl_wrappers.training.sequence_trainer import SequenceFitConfig
from sb3_ext import DynaConfig
from scripts.training.algorithms import agent_class, agent_keys
from scripts.training.configuration import HYPERPARAMS_FOLDER, check_keys, merge, nested, read_entry
from scripts.training.environments import make_env
from scripts.training.latent_arguments import LatentArguments

KEYS = ("n_timesteps", "window", "real_ratio", "agent", "options", "fit", "dyna")

ENCODERS: Mapping[str, Mapping[str, Any]] = {
    "filter": {"posterior": "factorised filter", "summary": "gru"},
    "rssm": {"posterior": "filter", "summary": "none", "recurrent_size": 32},
    "transformer": {"posterior": "factorised filter", "summary": "transformer"},
    "smoother": {"posterior": "factorised smoother"},
    "structured": {"posterior": "smoother"},
    "single": {"posterior": "single"},
}
"""What ``--encoder`` sets of :class:`~mbrl_wrappers.latent.LatentOptions`."""

LOOKING_BACK = ("transformer", "structured")
"""Encoders that keep a window of readings in place of a summary: their agents see the state form."""


@dataclass(frozen=True)
class LatentSettings:
    """Everything a run needs.

    Attributes:
        args: the command line.
        cls: the agent's class.
        entry: the merged settings, as they are recorded.
    """

    args: LatentArguments
    cls: type[BaseAlgorithm]
    entry: dict[str, Any]

    @property
    def n_timesteps(self) -> int:
        """Real steps."""
        return self.args.n_timesteps if self.args.n_timesteps > 0 else int(self.entry["n_timesteps"])

    def env(self) -> gym.Env[Any, Any]:
        """The real task behind what hides its state."""
        args = self.args
        kwargs = dict(args.env_kwargs)
        env = make_env(args.env, kwargs)
        if args.encoder == "full":
            return env
        if args.frames:
            env = FrameObservation(env, args.frames)
        if args.mask:
            size = env.observation_space.shape[0] if env.observation_space.shape else 0
            wrong = [index for index in args.mask if not 0 <= index < size]
            if wrong:
                raise ValueError(f"--mask {wrong[0]}: {args.env} shows the entries 0 to {size - 1}.")
            env = MaskedObservation(env, [index for index in range(size) if index not in args.mask])
        if args.noise:
            env = NoisyObservation(env, args.noise)
        return StackedObservation(env, args.stack) if args.encoder == "stack" else env

    def vec_env(
        self, seed: int, n_envs: int = 1, *, monitor_folder: Path | None = None, append: bool = False
    ) -> DummyVecEnv:
        """The same for SB3, monitored and seeded with ``seed + index``; ``append`` goes on with the monitor files."""
        folder = None if monitor_folder is None else str(monitor_folder)
        env = make_vec_env(
            self.env,
            n_envs=n_envs,
            seed=seed,
            monitor_dir=folder,
            monitor_kwargs={"override_existing": not append},
        )
        assert isinstance(env, DummyVecEnv)
        return env

    def model(self) -> LatentStateSpaceModel:
        """The latent model, not fitted yet.

        Raises:
            ValueError: for options that do not exist or cannot be.
        """
        given = {**self.entry["options"], **ENCODERS[self.args.encoder]}
        check_keys(given, [field.name for field in fields(LatentOptions)], "the options block")
        for name in ("hidden", "encoder_hidden"):
            if name in given:
                given[name] = tuple(given[name])
        env = self.env()
        ends = task_functions(env.unwrapped).termination_fn
        return LatentStateSpaceModel(
            env.observation_space,
            env.action_space,
            options=LatentOptions(**given),
            form="state" if self.args.encoder in LOOKING_BACK else "belief",
            termination_fn=never_terminates if ends is never_terminates else None,
            seed=self.args.seed,
            device=self.args.device,
        )

    def fit_config(self) -> SequenceFitConfig:
        """How the model is fitted."""
        return SequenceFitConfig(**_checked(self.entry["fit"], SequenceFitConfig, "fit"))

    def dyna_config(self) -> DynaConfig:
        """How often the model is fitted and rolled out."""
        block = dict(self.entry["dyna"])
        if self.args.imagine:
            block["rollout_length"] = self.args.imagine
        return DynaConfig(**_checked(block, DynaConfig, "dyna"))


def latent_settings(args: LatentArguments) -> LatentSettings:
    """Read, merge and check all settings.

    Raises:
        ValueError: with what to change.
    """
    cls = agent_class(args.algo, "sb3")
    path = Path(args.conf_file) if args.conf_file else HYPERPARAMS_FOLDER / "latent.yml"
    given = nested(args.hyperparams)
    for block in ("agent", "fit", "dyna"):  # names that a model block has elsewhere
        if block in given.get("model", {}):
            given[block] = given["model"].pop(block)
    if not given.get("model", True):
        del given["model"]
    if "model" in given:
        given |= given.pop("model")
    entry = merge(read_entry(path, args.env), given)
    check_keys(entry, KEYS, f"{path.name} ({args.env}) or --hyperparams")
    check_keys(entry["agent"], agent_keys(cls), "the agent block")
    settings = LatentSettings(args, cls, entry)
    settings.fit_config(), settings.dyna_config()  # refuse now what cannot be
    return settings


def _checked(block: Mapping[str, Any], cls: Any, name: str) -> dict[str, Any]:
    check_keys(block, [field.name for field in fields(cls)], f"the {name} block")
    return dict(block)
