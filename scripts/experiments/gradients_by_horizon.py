"""Why long pathwise horizons fail: variance of both gradient estimators by horizon, and growth of the Jacobians.

Three tasks in exact models. The damped mass is the counterexample: its Jacobians shrink, and pathwise is better at
every horizon. Pendulum-v1 is unstable around the top only. The third is an inverted pendulum between two stiff stops:
it is pushed away from the top and thrown back by the stops, so trajectories part exponentially without ever leaving.

    python scripts/experiments/gradients_by_horizon.py docs/results/gradients -o docs/pictures/gradients.png

One file per task goes into the folder; the picture shows all that are there. ``--tasks`` measures some of them only, or
none and draws.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from torch import Generator, Tensor, nn

if __package__ in (None, ""):  # run as a file: imports start at the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from mbrl_wrappers import FunctionModel
from mbrl_wrappers.gradient_estimators import ImaginedReturn
from mbrl_wrappers.gradient_health import GradientHealth, gradient_health
from mbrl_wrappers.models.function import StepFn
from mbrl_wrappers.optional import require
from mbrl_wrappers.seeding import torch_generator
from scripts.runs.summary import versions

TIME_STEP = 0.05
GRAVITY = 15.0
"""``3 g / (2 l)`` of a rod of one metre, in 1/s^2: the angle's acceleration at the top is this times its sine."""

STOP_ANGLE, STOP_STIFFNESS, SUBSTEPS = 0.5, 9000.0, 10
"""Stops at this angle from the top, in rad, of this angular stiffness, in 1/s^2; substeps that resolve the contact."""

SPRING, DAMPING = 20.0, 4.0
"""Of the damped mass, in 1/s^2 and 1/s."""

STD = 0.3
HORIZONS = (1, 2, 5, 10, 20, 40, 80)


class GaussianNet(nn.Module):
    """A small random network's mean, with a fixed standard deviation."""

    def __init__(self, size: int, generator: Generator) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(size, 16), nn.Tanh(), nn.Linear(16, 1)).double()
        with th.no_grad():
            for weight in self.net.parameters():
                spread = weight.shape[-1] ** -0.5 if weight.ndim == 2 else 0.1
                weight.copy_(spread * th.randn(weight.shape, generator=generator, dtype=th.float64))

    def sample(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor]:
        """An action that moves with the parameters, and its log-probability up to a constant."""
        noise = th.randn((len(obs), 1), generator=generator, dtype=obs.dtype)
        return self.net(obs) + STD * noise, -0.5 * (noise**2).sum(1)

    def sample_scored(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor]:
        """The same action as a constant, and its log-probability up to a constant."""
        action = self.sample(obs, generator=generator)[0].detach()
        return action, -0.5 * (((action - self.net(obs)) / STD) ** 2).sum(1)


def linear_step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A damped mass: stable without control, so Jacobians shrink."""
    position, velocity = obs.unbind(1)
    velocity = velocity + TIME_STEP * (action[:, 0] - SPRING * position - DAMPING * velocity)
    position = position + TIME_STEP * velocity
    return _with_cost(position, velocity, action)


def pendulum_step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pendulum-v1, the action in units of two newton metres."""
    angle, velocity = th.atan2(obs[:, 1], obs[:, 0]), obs[:, 2]
    push = 2 * action[:, 0].clamp(-1, 1)
    cost = angle**2 + 0.1 * velocity**2 + 0.001 * push**2
    velocity = (velocity + TIME_STEP * (GRAVITY * th.sin(angle) + 3 * push)).clamp(-8, 8)
    angle = angle + TIME_STEP * velocity
    following = th.stack([th.cos(angle), th.sin(angle), velocity], 1)
    return following, -cost, th.zeros(len(obs), dtype=th.bool)


def stops_step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An inverted pendulum between two stiff springs, integrated in substeps (semi-implicit Euler)."""
    angle, velocity = obs.unbind(1)
    step = TIME_STEP / SUBSTEPS
    for _ in range(SUBSTEPS):
        pressed = angle - angle.clamp(-STOP_ANGLE, STOP_ANGLE)
        velocity = velocity + step * (GRAVITY * th.sin(angle) + action[:, 0] - STOP_STIFFNESS * pressed)
        angle = angle + step * velocity
    return _with_cost(angle, velocity, action)


def _with_cost(position: Tensor, velocity: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    reward = -(position**2 + 0.1 * velocity**2 + 0.001 * action[:, 0] ** 2)
    return th.stack([position, velocity], 1), reward, th.zeros(len(position), dtype=th.bool)


@dataclass(frozen=True)
class Task:
    """A system, where it starts (uniform in a box of angle and velocity) and the growth of its linear part."""

    key: str
    name: str
    step: StepFn
    size: int
    widest: tuple[float, float]
    rate: float
    meaning: str

    def starts(self, rows: int, generator: Generator) -> Tensor:
        """``(rows, O)`` observations."""
        drawn = (2 * th.rand(rows, 2, generator=generator, dtype=th.float64) - 1) * th.tensor(self.widest)
        if self.size == 2:
            return drawn
        return th.stack([th.cos(drawn[:, 0]), th.sin(drawn[:, 0]), drawn[:, 1]], 1)


def growth_at_the_top() -> float:
    r"""Log-growth per step of the linearised pendulum at the top, by the larger eigenvalue of its step.

    ``v' = v + h w s``, ``s' = s + h v'``: the eigenvalues solve :math:`z^2 - (2 + h^2 w) z + 1 = 0`.
    """
    half = 1 + TIME_STEP**2 * GRAVITY / 2
    return math.log(half + math.sqrt(half**2 - 1))


def growth_of_the_damped_mass() -> float:
    r"""Log-growth per step without control: half the log of the step's determinant ``1 - h c``."""
    return 0.5 * math.log(1 - TIME_STEP * DAMPING)


TASKS = (
    Task(
        "damped-mass",
        "damped mass",
        linear_step,
        2,
        (1.0, 1.0),
        growth_of_the_damped_mass(),
        "without control, linear theory",
    ),
    Task("pendulum", "Pendulum-v1", pendulum_step, 3, (math.pi, 1.0), growth_at_the_top(), "at the top, linear theory"),
    Task(
        "stiff-stops",
        "pendulum, stiff stops",
        stops_step,
        2,
        (0.4, 0.5),
        growth_at_the_top(),
        "at the top, linear theory",
    ),
)


class Measured(NamedTuple):
    """One task with one seed of policy, starts and draws."""

    task: str
    seed: int
    health: GradientHealth


def measure(task: Task, seed: int, *, rows: int, groups: int, horizons: Sequence[int]) -> Measured:
    """Both estimators by horizon on ``task``: returns without discount, the mean over other rows as baseline."""
    generator = torch_generator(seed)
    policy = GaussianNet(task.size, generator)
    observations = spaces.Box(-np.inf, np.inf, (task.size,), np.float64)
    model = FunctionModel(observations, spaces.Box(-np.inf, np.inf, (1,), np.float32), task.step)
    starts, objective = task.starts(rows, generator), ImaginedReturn(1, discount=1.0)
    health = gradient_health(
        model, policy, list(policy.parameters()), starts, objective, horizons, generator=generator, groups=groups
    )
    for place, horizon in enumerate(horizons):
        print(
            f"{task.name}, seed {seed}, H = {horizon:3d}: variance pathwise {health.pathwise_variance[place]:.3g}, "
            f"likelihood ratio {health.likelihood_ratio_variance[place]:.3g}, growth {health.log_growth[place]:.3f}",
            flush=True,
        )
    return Measured(task.name, seed, health)


def draw(found: Sequence[Measured], path: Path) -> None:
    """Variance above, growth below; one column per task, one line per seed."""
    pyplot: Any = require("matplotlib.pyplot", extra="plots")
    tasks = [task for task in TASKS if any(one.task == task.name for one in found)]
    figure, axes = pyplot.subplots(2, len(tasks), figsize=(4.2 * len(tasks), 6.4), sharex=True, squeeze=False)
    for column, task in enumerate(tasks):
        above, below = axes[:, column]
        for number, each in enumerate(one for one in found if one.task == task.name):
            health, first = each.health, number == 0
            for name, colour, label in (
                ("pathwise_variance", "tab:orange", "pathwise"),
                ("likelihood_ratio_variance", "tab:blue", "likelihood ratio"),
            ):
                above.loglog(health.horizons, getattr(health, name), "o-", color=colour, markersize=3, alpha=0.8,
                             label=label if first else None)  # fmt: skip
            below.semilogx(health.horizons, health.log_growth, "o-", color="tab:green", markersize=3, alpha=0.8,
                           label="measured" if first else None)  # fmt: skip
        below.axhline(task.rate, color="k", linestyle="--", linewidth=1, label=task.meaning)
        below.axhline(0, color="0.7", linewidth=1)
        above.set(title=task.name)
        below.set(xlabel="horizon H (steps)", xticks=HORIZONS, xticklabels=[str(horizon) for horizon in HORIZONS])
        below.minorticks_off()
        above.legend()
        below.legend(loc="upper right" if task.rate < 0 else "lower right")
    axes[0, 0].set_ylabel("variance of one trajectory's gradient\n(summed over parameters, reward²)")
    axes[1, 0].set_ylabel("mean log-growth of the Jacobian\nproduct (1/step)")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"Wrote {path}")


def write(found: Sequence[Measured], path: Path, size: dict[str, int]) -> None:
    """The numbers of one task, with the command and the versions."""
    numbers = {"seeds": [one.seed for one in found], "horizons": [*found[0].health.horizons]}
    numbers |= {name: [count] for name, count in size.items()}
    flags = [str(word) for name, values in numbers.items() for word in (f"--{name}", *values)]
    words = [str(path.parent), "--tasks", path.stem, *flags]
    command = shlex.join(["python", "scripts/experiments/gradients_by_horizon.py", *words])
    measured = [{"task": one.task, "seed": one.seed, **one.health._asdict()} for one in found]
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {"command": command, **size, "versions": versions("sb3"), "measured": measured}
    path.write_text(json.dumps(report, indent=1) + "\n")


def read(folder: Path) -> list[Measured]:
    """All that was written into ``folder``."""
    found = []
    for path in sorted(folder.glob("*.json")):
        for entry in json.loads(path.read_text())["measured"]:
            numbers = {name: tuple(entry[name]) for name in GradientHealth._fields}
            found.append(Measured(entry["task"], entry["seed"], GradientHealth(**numbers)))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write and draw; the command line of the process unless ``argv`` is given."""
    keys = [task.key for task in TASKS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the numbers are written and read")
    parser.add_argument("-o", "--output", type=Path, default=Path("gradients.png"), help="the picture")
    parser.add_argument("--tasks", nargs="*", choices=keys, default=keys, help="measure these (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of policy, starts and draws")
    parser.add_argument("--rows", type=int, default=1024, help="trajectories (default: 1024)")
    parser.add_argument("--groups", type=int, default=16, help="gradients a variance is taken of (default: 16)")
    parser.add_argument("--horizons", type=int, nargs="+", default=list(HORIZONS), help="steps")
    args = parser.parse_args(argv)
    size = {"rows": args.rows, "groups": args.groups}
    for task in TASKS:
        if task.key in args.tasks:
            found = [measure(task, seed, **size, horizons=args.horizons) for seed in args.seeds]
            write(found, args.folder / f"{task.key}.json", size)
    draw(read(args.folder), args.output)


if __name__ == "__main__":
    main()
