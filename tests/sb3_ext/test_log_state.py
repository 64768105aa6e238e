"""SB3's log goes on where a run was saved."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Figure, Logger, configure

from sb3_ext import RunCheckpoint
from sb3_ext.log_state import load_log_state, log_state
from tests.sb3_ext.resumed_runs import Kill, KillAt


def test_what_was_recorded_is_written_with_what_comes_after(tmp_path: Path) -> None:
    logger = configure(str(tmp_path / "one"), ["csv"])
    logger.record("a", 1)
    logger.record("b", 2.5, exclude="stdout")
    logger.record_mean("m", 1.0)
    logger.record_mean("m", np.float32(2.0))
    logger.dump(0)
    logger.record_mean("m", 4.0)
    logger.record("picture", Figure(None, True))
    state = log_state(logger)
    other = configure(str(tmp_path / "two"), ["csv"])
    load_log_state(other, state)
    for each in (logger, other):
        each.name_to_value.pop("picture", None)
        each.record_mean("m", 6.0)
        each.record("late", 7)
        each.dump(1)
        each.close()
    one, two = ((tmp_path / name / "progress.csv").read_text() for name in ("one", "two"))
    assert one == two
    assert sorted(zip(*(line.split(",") for line in one.splitlines()), strict=True)) == [
        ("a", "1", ""), ("b", "2.5", ""), ("late", "", "7"), ("m", "1.5", "5.0")
    ]  # fmt: skip


def learn(tmp_path: Path, kill: float) -> None:
    """A run that logs to CSV and TensorBoard, in episodes of 200 steps."""
    agent = SAC(
        "MlpPolicy",
        make_vec_env("Pendulum-v1", seed=0),
        learning_starts=900,
        buffer_size=50,
        seed=0,
        policy_kwargs={"net_arch": [4]},
        tensorboard_log=str(tmp_path / "board"),
    )
    checkpoint = RunCheckpoint(tmp_path / "run", every=300)
    done = checkpoint.restore(agent, [])
    try:
        agent.learn(850 - done, callback=[checkpoint, KillAt(kill)], log_interval=1, reset_num_timesteps=not done)
    except Kill:
        checkpoint.release()
    finally:
        agent.logger.close()


def test_tensorboard_goes_on_in_the_folder_of_the_run(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    learn(tmp_path, 500)
    (tmp_path / "board" / "SAC_2").mkdir()  # of a run that began later
    learn(tmp_path, math.inf)
    assert sorted(path.name for path in (tmp_path / "board").iterdir()) == ["SAC_1", "SAC_2"]
    assert not list((tmp_path / "board" / "SAC_2").iterdir())
    events = accumulator.EventAccumulator(str(tmp_path / "board" / "SAC_1"))
    events.Reload()
    assert [event.step for event in events.Scalars("rollout/ep_len_mean")] == [200, 400, 600, 800]


def test_a_csv_file_goes_on(tmp_path: Path) -> None:
    def run(folder: Path, *kills: float) -> list[str]:
        for kill in (*kills, math.inf):
            agent = SAC(
                "MlpPolicy",
                make_vec_env("Pendulum-v1", seed=0),
                learning_starts=900,
                buffer_size=50,
                seed=0,
                policy_kwargs={"net_arch": [4]},
            )
            logger: Logger = configure(str(folder), ["csv"])
            agent.set_logger(logger)
            checkpoint = RunCheckpoint(folder / "run", every=150)
            done = checkpoint.restore(agent, [])
            try:
                agent.learn(
                    850 - done, callback=[checkpoint, KillAt(kill)], log_interval=1, reset_num_timesteps=not done
                )
            except Kill:
                checkpoint.release()
            logger.close()
        rows = [line.split(",") for line in (folder / "progress.csv").read_text().splitlines()]
        names = ("time/total_timesteps", "rollout/ep_rew_mean", "time/episodes")
        kept = [rows[0].index(name) for name in names]
        return [",".join(row[index] for index in kept) for row in rows]

    whole = run(tmp_path / "whole")
    assert len(whole) == 5
    assert run(tmp_path / "killed", 460, 640) == whole
