"""Agents from run folders, without running what a file says unless it is trusted.

By default the agent is built from ``summary.json`` and only the tensors in its zip are read
(:mod:`sb3_ext.safe_loading`). SBX pickles its weights too, so its files can be read with ``trust`` only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_ext.safe_loading import load_agent
from scripts.runs.reading import Run, read_run
from scripts.runs.run_folder import (
    AVERAGED_AGENT_FILE,
    BEST_AGENT_FILE,
    BEST_AVERAGED_AGENT_FILE,
    SUMMARY_FILE,
    agent_file_name,
)
from scripts.training.algorithms import ON_POLICY, agent_class, policy_class, readable_policy_kwargs
from scripts.training.environments import make_real_vec_env

# What shapes the networks and the list of saved parts, and the discount, which says what a critic's values mean;
# everything else matters for training only.
_SHAPING = ("policy_kwargs", "use_sde", "ent_coef", "n_quantiles", "gamma")


@dataclass(frozen=True)
class AgentFile:
    """An agent's zip and the run it comes from."""

    path: Path
    run: Run

    def make_env(self, seed: int, **env_kwargs: Any) -> DummyVecEnv:
        """The real environment the agent was trained on, e.g. with ``render_mode="rgb_array"``."""
        summary = self.run.summary
        wrapper = summary["hyperparameters"].get("env_wrapper")
        return make_real_vec_env(self.run.task, {**summary["env_kwargs"], **env_kwargs}, seed, wrapper=wrapper)

    def load(self, env: VecEnv, *, trust: bool = False, device: str = "auto") -> BaseAlgorithm:
        """The agent, ready to act in ``env``.

        Args:
            env: gives the spaces.
            trust: unpickle the whole file, as ``SAC.load`` does. Only for files you or people you trust made.
            device: torch device.

        Raises:
            ValueError: if the file cannot be read without trust.
        """
        summary = self.run.summary
        if summary["backend"] == "sbx" and not trust:
            raise ValueError(
                f"{self.path} is an SBX agent, whose file is a pickle throughout: reading it can run code. "
                "If you made it, or trust who did, say so with --trust."
            )
        cls = agent_class(summary["algorithm"], summary["backend"])
        entry = summary["hyperparameters"]
        kwargs = {key: entry[key] for key in _SHAPING if key in entry}
        if "policy_kwargs" in kwargs:
            kwargs["policy_kwargs"] = readable_policy_kwargs(kwargs["policy_kwargs"], summary["backend"])
        if summary["algorithm"] not in ON_POLICY:
            kwargs["buffer_size"] = 1
        kwargs["policy"] = policy_class(entry.get("policy", "MlpPolicy"), summary["algorithm"], summary["backend"])
        return load_agent(self.path, env, cls, trust=trust, device=device, **kwargs)


def find_agent(path: Path, *, best: bool = False, averaged: bool = False) -> AgentFile:
    """The agent of a run folder, or of a zip inside one.

    Args:
        path: run folder or zip.
        best: of a folder, take the best agent in place of the last one.
        averaged: of a folder, take the average of the actors in place of the actor itself.

    Raises:
        ValueError: if there is no such file or no ``summary.json`` beside it.
    """
    folder = path if path.is_dir() else path.parent
    if not path.exists() and not (folder / SUMMARY_FILE).is_file():
        raise ValueError(f"There is no {path}: name a run folder that train.py made, or a zip inside one.")
    run = read_run(folder)
    if averaged:
        name = BEST_AVERAGED_AGENT_FILE if best else AVERAGED_AGENT_FILE
    else:
        name = BEST_AGENT_FILE if best else agent_file_name(run.task)
    zip_path = folder / name if path.is_dir() else path
    if not zip_path.is_file():
        there = ", ".join(sorted(entry.name for entry in folder.glob("*.zip"))) or "none"
        raise ValueError(f"There is no {zip_path}; agents in that folder: {there}.")
    return AgentFile(zip_path, run)
