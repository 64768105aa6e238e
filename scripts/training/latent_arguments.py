"""The command line of ``train_latent.py`` as a dataclass."""

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

ALGORITHMS = ("sac", "td3", "ddpg", "tqc", "crossq")

BASELINES = ("raw", "stack", "full")
"""What the agent is shown without a model: the sensors, the newest ones and the actions between, or everything."""

LEARNED = ("filter", "rssm", "transformer", "smoother", "structured", "single")


@dataclass(frozen=True)
class LatentArguments(ResumableArguments):
    """Everything ``train_latent.py`` needs; see ``--help`` for the meaning of each field."""

    PROGRAM: ClassVar[str] = "train_latent.py"

    env: str = "Pendulum-v1"
    mask: list[int] = field(default_factory=list)
    noise: float = 0.0
    frames: int = 0
    encoder: str = "filter"
    imagine: int = 0
    stack: int = 3
    eval_freq: int = -1
    final_episodes: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts({"-n": self.n_timesteps, "--eval-freq": self.eval_freq})
        if min(self.eval_episodes, self.final_episodes, self.stack) < 1:
            raise ValueError("--eval-episodes, --final-episodes and --stack must be at least 1.")
        if self.noise < 0:
            raise ValueError(f"--noise is a standard deviation, so it cannot be negative; got {self.noise}.")
        if self.imagine < 0:
            raise ValueError(f"--imagine is a number of steps, at least 0, got {self.imagine}.")
        if self.imagine and self.encoder in BASELINES:
            raise ValueError(f"--encoder {self.encoder} has no model to imagine with: leave --imagine out.")
        if self.frames and self.mask:
            raise ValueError("--frames replaces the observation, so there is nothing to mask: leave --mask out.")

    @property
    def learned(self) -> bool:
        """Whether a latent model is learned."""
        return self.encoder not in BASELINES

    @property
    def place(self) -> tuple[str, str]:
        """Runs of this command have a folder of their own, and without a tag they are named after the encoder."""
        return f"latent-{self.algo}", self.tag or self.encoder

    @property
    def arm(self) -> str:
        """How this run is called in tables and legends."""
        return self.tag or f"{self.algo}+{self.encoder}" + (f"+imagine{self.imagine}" if self.imagine else "")


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``train_latent.py``."""
    default = LatentArguments()
    parser = task_parser(
        "train_latent.py",
        "Train a Stable-Baselines3 agent on the beliefs of a latent model.",
        default,
        settings="latent.yml",
        hyperparams="replace settings; dots reach inside: agent.learning_rate:3e-4 options.latent_size:8 fit.window:15",
    )
    add_learning_flags(parser, default, "episodes per evaluation on the way")
    add = parser.add_argument
    add("--algo", choices=ALGORITHMS, default=default.algo, help="the agent")
    add("--mask", type=int, nargs="+", default=[], metavar="I", help="entries of the observation that are hidden")
    add("--noise", type=float, default=0.0, help="standard deviation of noise added to what is left of it")
    add("--frames", type=int, default=0, help="show pictures of so many rows and columns instead (0: none)")
    add(
        "--encoder",
        choices=(*LEARNED, *BASELINES),
        default=default.encoder,
        help="posterior of the latent model; without a model: raw sensors, a stack of them, or the full observation",
    )
    add("--imagine", type=int, default=0, metavar="K", help="also train on branches of K steps in the model (0: none)")
    add("--stack", type=int, default=default.stack, help="observations in the stack of --encoder stack")
    add("--eval-freq", type=int, default=-1, help="real steps between evaluations (-1: a tenth of the run)")
    add_resume_flags(parser)
    add("--final-episodes", type=int, default=default.final_episodes, help="episodes of the last evaluation")
    return parser


def parse_latent_arguments(argv: Sequence[str] | None = None) -> LatentArguments:
    """Parse the command line of ``train_latent.py``; the process's own when ``argv`` is omitted."""
    return parsed(build_parser(), LatentArguments, argv)
