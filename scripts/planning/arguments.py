"""The command lines of ``plan.py`` and ``train_planner.py`` as dataclasses."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from scripts.training.task_arguments import (
    LearningArguments,
    TaskArguments,
    add_learning_flags,
    check_counts,
    parsed,
    task_parser,
)

PLANNERS = {
    "random": "RandomShooting",
    "cem": "CEM",
    "icem": "ICEM",
    "mppi": "MPPI",
    "gradient": "GradientShooting",
    "lqr": "LQR",
    "ilqr": "ILQR",
}
"""What ``--planner`` takes, and the class in ``controllers``."""
LEARNING_PLANNERS = ("cem", "icem", "mppi", "random")
PROPAGATIONS = ("tsinf", "ts1", "mean")
PICTURES = (".png", ".pdf", ".svg")
PLANNER_HYPERPARAMS = (
    "replace settings: any field of the planner (population:200), any key of the YAML file (cem.min_std:0.1)"
)


@dataclass(frozen=True)
class PlanArguments(TaskArguments):
    """Everything ``plan.py`` needs; see ``--help`` for the meaning of each field."""

    env: str = "HalfCheetah-v5"
    progress: bool = True
    num_threads: int = 0
    planner: str = "icem"
    model: str = "true"
    episodes: int = 1
    steps: int = -1
    seed: tuple[int, ...] = (0,)
    horizon: int | None = None
    execute: int | None = None
    population: int | None = None
    particles: int | None = None
    discount: float | None = None
    terminal_value: str = ""
    proposals: str = ""
    num_proposals: int = 8
    trust: bool = False
    video: str = ""
    picture: str = ""
    picture_step: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "seed", tuple(self.seed))
        if self.episodes < 1 or self.num_proposals < 1:
            raise ValueError("--episodes and --num-proposals must be at least 1.")
        if self.steps < 1 and self.steps != -1:
            raise ValueError(f"--steps must be at least 1, or -1 for whole episodes, got {self.steps}.")
        if self.picture_step < 0:
            raise ValueError(f"--picture-step must be 0 or more, got {self.picture_step}.")
        if self.picture and not self.picture.endswith(PICTURES):
            raise ValueError(f"--picture must end in one of {', '.join(PICTURES)}, got {self.picture!r}.")

    @property
    def arm(self) -> str:
        """How this run is called in tables."""
        return self.tag or self.planner


@dataclass(frozen=True)
class TrainPlannerArguments(LearningArguments):
    """Everything ``train_planner.py`` needs; see ``--help`` for the meaning of each field."""

    env: str = "mbrl_wrappers/ContinuousCartPole-v0"
    eval_episodes: int = 0
    planner: str = "cem"
    trials: int = -1
    propagation: str | None = None
    particles: int | None = None
    horizon: int | None = None
    execute: int | None = None
    resume: str = ""
    checkpoint_freq: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts({"-n": self.n_timesteps, "--trials": self.trials})
        if self.checkpoint_freq < 1:
            raise ValueError(f"--checkpoint-freq must be at least 1, got {self.checkpoint_freq}.")
        if self.eval_episodes < 0:
            raise ValueError(f"--eval-episodes must be 0 or more, got {self.eval_episodes}.")

    @property
    def arm(self) -> str:
        """How this run is called in tables and legends."""
        return self.tag or f"pets-{self.planner}"


def _add_plan_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of a plan that both programs have."""
    add = parser.add_argument
    add("--horizon", type=int, default=None, help="steps planned ahead (from the YAML file when not given)")
    add("--execute", type=int, default=None, help="actions executed before the next plan (from the YAML file)")
    add("--particles", type=int, default=None, help="rows per candidate in a stochastic model (from the YAML file)")


def build_plan_parser() -> argparse.ArgumentParser:
    """The parser of ``plan.py``."""
    default = PlanArguments()
    parser = task_parser(
        "plan.py",
        "Act on plans: model predictive control of a real environment, in any model.",
        default,
        settings="plan.yml",
        hyperparams=PLANNER_HYPERPARAMS,
    )
    _add_plan_flags(parser)
    add = parser.add_argument
    add("--planner", choices=list(PLANNERS), default=default.planner, help="how plans are found")
    add(
        "--model",
        default=default.model,
        help="what plans are made in: 'true', the environment itself, or a model file, or a run folder that has one",
    )
    add("--episodes", type=int, default=default.episodes, help="episodes per seed")
    add("--steps", type=int, default=default.steps, help="cut episodes after so many steps (-1: do not)")
    add("--seed", type=int, nargs="+", default=[0], help="of environment and plans; several make as many runs")
    add("--population", type=int, default=None, help="candidates per iteration, a field of most planners")
    add("--discount", type=float, default=None, help="of the plan's rewards (1, or the agent's with --terminal-value)")
    add("--terminal-value", default="", metavar="AGENT", help="zip whose critic says what the end of a plan is worth")
    add("--proposals", default="", metavar="AGENT", help="zip whose policy proposes candidates")
    add("--num-proposals", type=int, default=default.num_proposals, help="candidates that --proposals adds")
    add("--trust", action="store_true", help="read the agents' pickles, which can run code")
    add("--video", default="", metavar="FOLDER", help="film every episode into this folder, as MP4")
    add("--picture", default="", metavar="PNG", help="draw the candidates of one plan, coloured by score")
    add("--picture-step", type=int, default=default.picture_step, help="step of the first episode that is drawn")
    add("--no-progress", dest="progress", action="store_false", default=True, help="show no progress bar")
    return parser


def build_train_parser() -> argparse.ArgumentParser:
    """The parser of ``train_planner.py``."""
    default = TrainPlannerArguments()
    parser = task_parser(
        "train_planner.py",
        "Learn a model by acting on the plans made in it (PETS).",
        default,
        settings="pets.yml",
        hyperparams=PLANNER_HYPERPARAMS,
    )
    add_learning_flags(parser, default, "episodes on an environment of their own after the last trial")
    _add_plan_flags(parser)
    add = parser.add_argument
    add("--planner", choices=LEARNING_PLANNERS, default=default.planner, help="how plans are found")
    add("--trials", type=int, default=-1, help="trials with the planner (-1: from the YAML file)")
    add(
        "--propagation",
        choices=PROPAGATIONS,
        default=None,
        help="one member per particle (tsinf), a new one in every step (ts1), or the mean; from the YAML file",
    )
    add(
        "--checkpoint-freq",
        type=int,
        default=default.checkpoint_freq,
        help="real steps between checkpoints, apart from those after each trial",
    )
    add(
        "--resume",
        default="",
        metavar="FOLDER",
        help="go on with an interrupted run; of the other flags -n, --trials, --eval-episodes and -P count then; "
        "'auto' goes on with the newest unfinished run of the same command line, or starts one",
    )
    return parser


def parse_plan_arguments(argv: Sequence[str] | None = None) -> PlanArguments:
    """Parse the command line of ``plan.py``; the process's own when ``argv`` is omitted."""
    return parsed(build_plan_parser(), PlanArguments, argv)


def parse_train_arguments(argv: Sequence[str] | None = None) -> TrainPlannerArguments:
    """Parse the command line of ``train_planner.py``; the process's own when ``argv`` is omitted."""
    return parsed(build_train_parser(), TrainPlannerArguments, argv)
