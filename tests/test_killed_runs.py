"""Runs that are killed by SIGKILL at random instants, saves included, end as those that were not killed."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.env_util import make_vec_env

from mbrl_wrappers.comparable import comparable
from mbrl_wrappers.storage.run_checkpoint import RunCheckpoints
from mbrl_wrappers.storage.state_file import read_state, write_state
from sb3_ext import RunCheckpoint
from sb3_ext.agents import DynaQ
from scripts.train_latent import main as train_latent
from scripts.train_planner import main
from tests.killing import forked, killed_after, started
from tests.ordered import by_key

WORDS = [
    *("--env", "InvertedPendulum-v5", "--horizon", "3", "--particles", "2", "--trials", "3", "--tag", "kill"),
    *("--checkpoint-freq", "3", "--resume", "auto", "--hyperparams", "population:8", "iterations:2"),
    *("trial_steps:12", "initial_random_steps:20", "max_gradient_steps:5", "train_freq:7"),
    *("ensemble.hidden:[8]", "ensemble.num_members:2", "ensemble.num_elites:2"),
]  # fmt: skip


class PlannerRun:
    """Runs of PETS that share a command line; each has a log folder of its own."""

    def __init__(self, log_folder: Path, *, forks: bool) -> None:
        self.log_folder, self.forks = log_folder, forks
        self.words = [*WORDS, "-f", str(log_folder)]

    @property
    def folder(self) -> Path:
        return self.log_folder / "pets" / "InvertedPendulum-v5_kill_1"

    def start(self) -> int:
        if self.forks:
            return forked(functools.partial(main, self.words))
        return started(["scripts/train_planner.py", *self.words])

    def begun(self) -> bool:
        return self.folder.exists()

    def outcome(self) -> Any:
        summary = json.loads((self.folder / "summary.json").read_text())
        trials = [{k: v for k, v in row.items() if k != "plan_milliseconds"} for row in summary["planning"]["trials"]]
        fits = [{k: v for k, v in fit.items() if k != "seconds"} for fit in summary["model"]["history"]]
        evaluations = [(row["real_steps"], row["returns"], row["lengths"]) for row in summary["evaluations"]]
        rows = [line.rpartition(",")[0] for line in (self.folder / "0.monitor.csv").read_text().splitlines()[2:]]
        found = RunCheckpoints(self.folder / "progress").load()
        assert found is not None
        found.state["learning"]["trainer"].pop("history")  # the fits again, with their times
        learned = [found.state["learning"][name] for name in ("model", "trainer", "store")]
        layers = found.state["learning"]["env"]["layers"]
        return comparable(
            by_key([summary["finished"], trials, fits, evaluations, rows, found.step, learned, layers[-1]])
        )


class TabularRun:
    """A run of Dyna-Q with a checkpoint every few steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def work(self) -> int:
        env = make_vec_env("mbrl_wrappers/DynaMaze-v0", 2, seed=1)
        agent = DynaQ("TabularPolicy", env, seed=3, planning_steps=5)
        checkpoint = RunCheckpoint(self.folder, every=20)
        done = checkpoint.restore(agent, [checkpoint])
        agent.learn(300 - done, callback=CallbackList([checkpoint]), reset_num_timesteps=False)
        state = agent.state_dict()
        for episode in state["agent"]["episodes"]["ep_info_buffer"]:
            episode.pop("t")
        write_state(self.folder / "end.safetensors", {"agent": state["agent"], "streams": state["streams"]})
        return 0

    def start(self) -> int:
        return forked(self.work)

    def begun(self) -> bool:
        return self.folder.exists()

    def outcome(self) -> Any:
        return comparable(by_key(read_state(self.folder / "end.safetensors")[0]))


LATENT_WORDS = [
    *("--env", "Pendulum-v1", "--env-kwargs", "max_episode_steps:20", "--mask", "2", "-n", "90", "--eval-freq", "30"),
    *("--eval-episodes", "2", "--final-episodes", "2", "--device", "cpu", "--imagine", "2", "--tag", "kill"),
    *("--checkpoint-freq", "10", "--resume", "auto", "--hyperparams", "agent.learning_starts:20", "agent.batch_size:8"),
    *("agent.policy_kwargs.net_arch:[8]", "dyna.model_train_freq:20", "dyna.rollout_freq:20", "dyna.min_real_rows:20"),
    *("dyna.first_fit_gradient_steps:3", "dyna.rollouts_per_step:2", "fit.max_gradient_steps:2", "fit.window:5"),
    *("options.hidden:[8]", "options.encoder_hidden:[8]", "options.memory_size:8", "window:4"),
]  # fmt: skip


class LatentRun:
    """Runs of an agent on beliefs that share a command line; each has a log folder of its own."""

    def __init__(self, log_folder: Path) -> None:
        self.folder = log_folder / "latent-sac" / "Pendulum-v1_kill_1"
        self.words = [*LATENT_WORDS, "-f", str(log_folder)]

    def start(self) -> int:
        return forked(functools.partial(train_latent, self.words))

    def begun(self) -> bool:
        return self.folder.exists()

    def outcome(self) -> Any:
        summary = json.loads((self.folder / "summary.json").read_text())
        fits = [{name: value for name, value in row.items() if name != "seconds"} for row in summary["model"]["fits"]]
        evaluations = [(row["real_steps"], row["returns"]) for row in summary["evaluations"]]
        rows = [line.rpartition(",")[0] for line in (self.folder / "0.monitor.csv").read_text().splitlines()[2:]]
        return fits, evaluations, summary["model"]["final_returns"], rows


def killed_until(kills: int, whole: Any, make: Callable[[int], Any], seed: int) -> list[int]:
    """Kill runs ``kills`` times, each as often as it takes to end, and compare; the kills of each run."""
    begun = time.monotonic()
    assert killed_after(whole.start(), whole.begun, 1000.0) == 0
    seconds, wanted = time.monotonic() - begun, whole.outcome()
    rng = np.random.default_rng(seed)
    counts: list[int] = []
    while sum(counts) < kills:
        run, count = make(len(counts)), 0
        while True:
            wait = 1000.0 if sum(counts) + count >= kills else float(rng.uniform(0, seconds))
            code = killed_after(run.start(), run.begun, wait)
            if code is not None:
                assert code == 0
                break
            count += 1
        assert run.outcome() == wanted
        counts.append(count)
        seconds *= 1.0 if count else 0.7  # the machine has become faster
    return counts


@pytest.mark.timeout(300)
def test_a_killed_run_of_pets_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    killed_until(3, PlannerRun(tmp_path / "w", forks=True), lambda n: PlannerRun(tmp_path / f"{n}", forks=True), 0)


@pytest.mark.timeout(300)
def test_a_killed_run_of_dyna_q_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    killed_until(2, TabularRun(tmp_path / "whole"), lambda n: TabularRun(tmp_path / f"{n}"), 1)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("forks", "kills"), [(True, 20), (False, 3)], ids=["forks", "commands"])
def test_runs_of_pets_that_are_killed_again_and_again(forks: bool, kills: int, tmp_path: Path) -> None:
    whole = PlannerRun(tmp_path / "w", forks=forks)
    assert sum(killed_until(kills, whole, lambda n: PlannerRun(tmp_path / f"{n}", forks=forks), 2)) >= kills


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_runs_of_dyna_q_that_are_killed_again_and_again(tmp_path: Path) -> None:
    counts = killed_until(20, TabularRun(tmp_path / "whole"), lambda n: TabularRun(tmp_path / f"{n}"), 3)
    assert sum(counts) >= 20


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.filterwarnings("ignore:The (posterior|learned)")
def test_runs_on_beliefs_that_are_killed_again_and_again(tmp_path: Path) -> None:
    counts = killed_until(4, LatentRun(tmp_path / "whole"), lambda n: LatentRun(tmp_path / f"{n}"), 4)
    assert sum(counts) >= 4
