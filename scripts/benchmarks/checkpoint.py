"""What a run checkpoint costs: seconds per save, as a share of the run at the default interval, and seconds to resume.

A Dyna run on Hopper-v5 with the numbers of ``scripts/hyperparams/sac.yml``: 20 updates a step, and as many imagined
rows as it has when its branches are longest. Time of fits and rollouts is left out, so the share is an upper bound.
Two sizes of the replay buffer show that a save does not cost more as the run gets longer.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback

from mbrl_wrappers.states import Ring
from mbrl_wrappers.types import Transitions
from sb3_ext import DynaCallback, DynaConfig, MixedReplayBuffer, RunCheckpoint
from sb3_ext.agent_checks import mixed_buffer
from scripts.benchmarks.ratios import Figure, report

REAL_ROWS = (1_000, 100_000)
IMAGINED_ROWS = 800_000
UPDATES = 20
EVERY = 1000
"""Real steps between checkpoints, as :class:`~sb3_ext.RunCheckpoint` has it."""

SPACING = 4
"""Real steps between two saves here."""


class Run(NamedTuple):
    """An agent and the callback of its model."""

    agent: SAC
    dyna: DynaCallback


class Cost(NamedTuple):
    """Seconds of one save, and of each real step since the one before."""

    save: float
    step: float


class Watch(BaseCallback):
    """Notes what each save of ``checkpoint``, which comes before it, has cost."""

    def __init__(self, checkpoint: RunCheckpoint) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.costs: list[Cost] = []
        self._last = (0, 0.0, 0.0)

    def _on_rollout_start(self) -> None:
        seen, saving, began = self._last
        step, seconds, now = self.num_timesteps, self.checkpoint.seconds, time.perf_counter()
        if seconds == saving:
            return
        if saving:
            cost = seconds - saving
            self.costs.append(Cost(cost, (now - began - cost) / (step - seen)))
        self._last = (step, seconds, now)

    def _on_step(self) -> bool:
        return True


def checkpoint_figures(seconds: float) -> Iterator[Figure]:
    """Every figure; ``seconds`` is how long the resumed runs are repeated."""
    for rows in REAL_ROWS:
        with TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            costs = saves(Path(folder), rows)
            name = f"run checkpoint, {rows:,} real rows"
            yield report(f"{name}, save", 1, [cost.save for cost in costs], "seconds")
            shares = [100 * cost.save / (cost.save + EVERY * cost.step) for cost in costs]
            yield report(f"{name}, share at every {EVERY:,} steps", 1, shares, "% of the run")
            yield report(f"{name}, resume", 1, resumes(Path(folder), rows, seconds), "seconds")


def saves(folder: Path, rows: int, count: int = 9) -> list[Cost]:
    """What saves of a run cost that has ``rows`` real rows; the first two, which write all of them, are left out."""
    agent, dyna = build(rows)
    fill(agent, rows)
    checkpoint = RunCheckpoint(folder, every=SPACING)
    watch = Watch(checkpoint)
    agent.learn(SPACING * (count + 1) + 1, callback=[dyna, checkpoint, watch])
    return watch.costs[1:]


def resumes(folder: Path, rows: int, seconds: float) -> list[float]:
    """How long it takes to put a new run into the newest checkpoint, at least three times."""
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < 3 or time.perf_counter() < end:
        agent, dyna = build(rows)
        checkpoint = RunCheckpoint(folder, every=SPACING)
        started = time.perf_counter()
        checkpoint.restore(agent, [dyna, checkpoint, Watch(checkpoint)])
        found.append(time.perf_counter() - started)
        checkpoint.release()
    return found


def build(rows: int) -> Run:
    """A run that fits no model and rolls none out, since what they cost is no cost of a checkpoint."""
    agent = SAC(
        "MlpPolicy",
        "Hopper-v5",
        learning_starts=0,
        gradient_steps=UPDATES,
        buffer_size=rows,
        replay_buffer_class=MixedReplayBuffer,
        seed=0,
        device="cpu",
    )
    return Run(agent, DynaCallback(config=DynaConfig(model_train_freq=0, rollout_freq=0)))


def fill(agent: SAC, rows: int) -> None:
    """Fill both parts of the agent's buffer with noise."""
    buffer, rng = mixed_buffer(agent), np.random.default_rng(0)
    state = buffer.state_dict()
    columns = {
        name: rng.normal(size=(rows, *array.shape[1:])).astype(array.dtype)
        for name, array in state["real"].columns.items()
    }
    for flag in ("dones", "timeouts"):
        columns[flag][:] = 0
    buffer.load_state_dict({**state, "real": Ring(columns, rows, rows)})
    buffer.reserve_synthetic(IMAGINED_ROWS)
    obs, none = th.randn(IMAGINED_ROWS, 11), th.zeros(IMAGINED_ROWS, dtype=th.bool)
    imagined = Transitions(obs, th.zeros(IMAGINED_ROWS, 3), obs[:, 0].clone(), obs, none, none)
    buffer.synthetic.add_batch(imagined, buffer.real_steps)
