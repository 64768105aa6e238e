"""The command line of ``train.py`` as a dataclass, with the flag names of RL Zoo."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from scripts.training.task_arguments import (
    ResumableArguments,
    add_learning_flags,
    add_resume_flags,
    check_counts,
    parsed,
    task_parser,
)

BACKENDS = ("sb3", "sbx")
MODEL_ONLY = ("dh", "mve-sac", "mve-td3", "mve-ddpg", "steve-sac", "steve-td3", "steve-ddpg", "mpg", "svg")
"""Agents whose update uses a model."""
ALGORITHMS = ("sac", "td3", "ddpg", "dqn", "tqc", "crossq", "qrdqn", "ppo", "a2c", "trpo", "naf", *MODEL_ONLY)


@dataclass(frozen=True)
class TrainArguments(ResumableArguments):
    """Everything ``train.py`` needs; see ``--help`` for the meaning of each field."""

    PROGRAM: ClassVar[str] = "train.py"

    eval_freq: int = -1
    n_envs: int = 1
    save_freq: int = -1
    save_replay_buffer: bool = False
    backend: str = "sb3"
    model: bool = True
    updates_per_step: float | None = None
    average_steps: int = -1
    use_average: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eval_episodes < 1 or self.n_envs < 1:
            raise ValueError("--eval-episodes and --n-envs must be at least 1.")
        check_counts({"-n": self.n_timesteps, "--eval-freq": self.eval_freq, "--save-freq": self.save_freq})
        if self.algo in MODEL_ONLY and not self.model:
            parent = self.algo.rpartition("-")[2] if "-" in self.algo else "sac"
            raise ValueError(f"{self.algo} trains with a model: leave out --no-model, or take --algo {parent}.")
        if self.updates_per_step is not None and self.updates_per_step <= 0:
            raise ValueError(f"--updates-per-step must be positive, got {self.updates_per_step}.")
        if self.average_steps < -1:
            raise ValueError(f"--average-steps must be at least 1, 0 for none or -1, got {self.average_steps}.")
        if self.use_average and self.average_steps == 0:
            raise ValueError("--use-average needs an average: leave --average-steps out, or give at least 1.")
        if "branching" in self.use_average and not self.model:
            raise ValueError("--use-average branching is about branches in the model: leave out --no-model.")

    @property
    def arm(self) -> str:
        """How this run is called in tables and legends."""
        return self.tag or (f"{self.algo}+model" if self.model else self.algo)


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``train.py``."""
    default = TrainArguments()
    parser = task_parser(
        "train.py",
        "Train a Stable-Baselines3 agent with a learned model, or without one (--no-model).",
        default,
        settings="<algo>.yml",
        hyperparams="replace hyperparameters; dots reach inside: policy_kwargs.net_arch:[64,64] dyna.rollout_freq:100",
    )
    add_learning_flags(parser, default, "episodes per evaluation")
    add = parser.add_argument
    add("--algo", choices=ALGORITHMS, default=default.algo, help="the agent")
    add("--eval-freq", type=int, default=-1, help="real steps between evaluations (-1: a twentieth of the run)")
    add("--n-envs", type=int, default=default.n_envs, help="parallel training environments")
    add("--save-freq", type=int, default=-1, help="real steps between zips of the agent (-1: none)")
    add_resume_flags(parser)
    add("--save-replay-buffer", action="store_true", help="also save the replay buffer at the end (a pickle)")
    add("--backend", choices=BACKENDS, default=default.backend, help="sb3 is PyTorch, sbx is JAX")
    add("--no-model", dest="model", action="store_false", default=True, help="train without a model")
    add(
        "--updates-per-step",
        type=float,
        default=None,
        help="agent updates per real step; replaces gradient_steps of the YAML file",
    )
    add(
        "--average-steps",
        type=int,
        default=-1,
        help="real steps over which the actor is averaged, to be evaluated beside it (-1: 200 for off-policy agents, "
        "0: no average)",
    )
    add(
        "--use-average",
        nargs="+",
        choices=("acting", "branching"),
        default=[],
        help="let the averaged actor take the real steps, or those inside the model, or both",
    )
    return parser


def parse_arguments(argv: Sequence[str] | None = None) -> TrainArguments:
    """Parse the command line of ``train.py``; the process's own when ``argv`` is omitted."""
    return parsed(build_parser(), TrainArguments, argv)
