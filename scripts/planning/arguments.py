"""The command lines of ``plan.py`` and ``train_planner.py`` as dataclasses."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from scripts.training.arguments import Assignments, check_tag

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
A = TypeVar("A")


@dataclass(frozen=True)
class PlanArguments:
    """Everything ``plan.py`` needs; see ``--help`` for the meaning of each field."""

    env: str = "HalfCheetah-v5"
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
    device: str = "auto"
    log_folder: str = "logs"
    progress: bool = True
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    hyperparams: dict[str, Any] = field(default_factory=dict)
    conf_file: str = ""
    num_threads: int = 0
    tag: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", tuple(self.seed))
        if self.episodes < 1 or self.num_proposals < 1:
            raise ValueError("--episodes and --num-proposals must be at least 1.")
        if self.steps < 1 and self.steps != -1:
            raise ValueError(f"--steps must be at least 1, or -1 for whole episodes, got {self.steps}.")
        if self.picture_step < 0:
            raise ValueError(f"--picture-step must be 0 or more, got {self.picture_step}.")
        if self.picture and not self.picture.endswith(PICTURES):
            raise ValueError(f"--picture must end in one of {', '.join(PICTURES)}, got {self.picture!r}.")
        check_tag(self.tag)

    @property
    def arm(self) -> str:
        """How this run is called in tables."""
        return self.tag or self.planner


@dataclass(frozen=True)
class TrainPlannerArguments:
    """Everything ``train_planner.py`` needs; see ``--help`` for the meaning of each field."""

    env: str = "mbrl_wrappers/ContinuousCartPole-v0"
    planner: str = "cem"
    n_timesteps: int = -1
    trials: int = -1
    seed: int = 0
    propagation: str | None = None
    particles: int | None = None
    horizon: int | None = None
    execute: int | None = None
    eval_episodes: int = 0
    device: str = "auto"
    log_folder: str = "logs"
    tensorboard_log: str = ""
    progress: bool = False
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    hyperparams: dict[str, Any] = field(default_factory=dict)
    conf_file: str = ""
    num_threads: int = 1
    verbose: int = 0
    tag: str = ""
    resume: str = ""

    def __post_init__(self) -> None:
        for flag, value in (("-n", self.n_timesteps), ("--trials", self.trials)):
            if value < 1 and value != -1:
                raise ValueError(f"{flag} must be at least 1, or -1 for the default, got {value}.")
        if self.eval_episodes < 0:
            raise ValueError(f"--eval-episodes must be 0 or more, got {self.eval_episodes}.")
        check_tag(self.tag)

    @property
    def arm(self) -> str:
        """How this run is called in tables and legends."""
        return self.tag or f"pets-{self.planner}"


def _new_parser(program: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=program, description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )


def _add_shared(add: Callable[..., Any], default: PlanArguments | TrainPlannerArguments, file: str) -> None:
    """The flags that both programs have."""
    add("--horizon", type=int, default=None, help="steps planned ahead (from the YAML file when not given)")
    add("--execute", type=int, default=None, help="actions executed before the next plan (from the YAML file)")
    add("--particles", type=int, default=None, help="rows per candidate in a stochastic model (from the YAML file)")
    add("--device", default=default.device, help="torch device of a learned model: auto, cpu, cuda")
    add("-f", "--log-folder", default=default.log_folder, help="where run folders are made")
    add("--env-kwargs", nargs="+", action=Assignments, default={}, metavar="K:V", help="environment arguments")
    add(
        "--hyperparams",
        "-params",
        nargs="+",
        action=Assignments,
        default={},
        metavar="K:V",
        help="replace settings: any field of the planner (population:200), any key of the YAML file (cem.min_std:0.1)",
    )
    add("--conf-file", default="", help=f"YAML file to use instead of scripts/hyperparams/{file}")
    add("--num-threads", type=int, default=default.num_threads, help="CPU threads (0: no limit)")
    add("--run-name", "--tag", dest="tag", default="", help="name of this run, in the folder name and in tables")


def build_plan_parser() -> argparse.ArgumentParser:
    """The parser of ``plan.py``."""
    default = PlanArguments()
    parser = _new_parser("plan.py", "Act on plans: model predictive control of a real environment, in any model.")
    add = parser.add_argument
    add("--env", default=default.env, help="Gymnasium environment id")
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
    _add_shared(add, default, "plan.yml")
    return parser


def build_train_parser() -> argparse.ArgumentParser:
    """The parser of ``train_planner.py``."""
    default = TrainPlannerArguments()
    parser = _new_parser("train_planner.py", "Learn a model by acting on the plans made in it (PETS).")
    add = parser.add_argument
    add("--env", default=default.env, help="Gymnasium environment id")
    add("--planner", choices=LEARNING_PLANNERS, default=default.planner, help="how plans are found")
    add("-n", "--n-timesteps", type=int, default=-1, help="real steps, random ones included (-1: from the YAML file)")
    add("--trials", type=int, default=-1, help="trials with the planner (-1: from the YAML file)")
    add("--seed", type=int, default=default.seed, help="of model, environment and plans")
    add(
        "--propagation",
        choices=PROPAGATIONS,
        default=None,
        help="one member per particle (tsinf), a new one in every step (ts1), or the mean; from the YAML file",
    )
    add("--eval-episodes", type=int, default=0, help="episodes on an environment of their own after the last trial")
    add("-tb", "--tensorboard-log", default="", help="folder for TensorBoard logs (empty: none)")
    add("-P", "--progress", action="store_true", help="show a progress bar")
    add("--verbose", type=int, default=default.verbose, help="0 quiet, 1 log tables")
    add(
        "--resume",
        default="",
        metavar="FOLDER",
        help="go on with an interrupted run; of the other flags -n, --trials, --eval-episodes and -P count then",
    )
    _add_shared(add, default, "pets.yml")
    return parser


def _parsed(parser: argparse.ArgumentParser, cls: type[A], argv: Sequence[str] | None) -> A:
    namespace = parser.parse_args(argv)
    try:
        return cls(**vars(namespace))
    except ValueError as error:
        parser.error(str(error))


def parse_plan_arguments(argv: Sequence[str] | None = None) -> PlanArguments:
    """Parse the command line of ``plan.py``; the process's own when ``argv`` is omitted."""
    return _parsed(build_plan_parser(), PlanArguments, argv)


def parse_train_arguments(argv: Sequence[str] | None = None) -> TrainPlannerArguments:
    """Parse the command line of ``train_planner.py``; the process's own when ``argv`` is omitted."""
    return _parsed(build_train_parser(), TrainPlannerArguments, argv)
