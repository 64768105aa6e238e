"""The clock, the thread limits and films."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from scripts.pictures.video import Film
from scripts.training import phases
from scripts.training.phases import PhaseClock, TrainTimer
from scripts.training.threads import limit_threads


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds = [0.0]
    monkeypatch.setattr(phases.time, "perf_counter", lambda: seconds[0])
    return seconds


def test_phases_add_up_to_the_wall_time(now: list[float]) -> None:
    clock = PhaseClock()
    clock.add("env_step", 1.0)
    with clock.measure("model_fit"):
        now[0] += 2.0
    owner = SimpleNamespace(step=lambda value: now.__setitem__(0, now[0] + value) or value)
    clock.time_calls(owner, "step", "env_step")
    assert owner.step(3.0) == 3.0
    clock.follow("model_rollout", lambda: 0.5)
    now[0] = 10.0
    assert clock.report() == {
        "env_step": 4.0, "agent_train": 0.0, "model_fit": 2.0, "model_rollout": 0.5, "planning": 0.0, "evaluation": 0.0,
        "other": 3.5,
    }  # fmt: skip


def test_a_resumed_run_counts_on(now: list[float]) -> None:
    now[0] = 100.0
    clock = PhaseClock({"env_step": 4.0, "other": 3.5}, earlier_cpu=2.0)
    clock.add("env_step", 1.0)
    now[0] = 103.0
    assert clock.wall_seconds == 10.5
    assert clock.cpu_seconds >= 2.0
    report = clock.report()
    assert (report["env_step"], report["other"]) == (5.0, 5.5)


def test_time_is_counted_when_a_call_fails(now: list[float]) -> None:
    clock = PhaseClock()

    def fail() -> None:
        now[0] += 1.0
        raise RuntimeError

    owner = SimpleNamespace(step=fail)
    clock.time_calls(owner, "step", "env_step")
    with pytest.raises(RuntimeError):
        owner.step()
    assert clock.report()["env_step"] == 1.0


def test_training_is_what_lies_between_two_rollouts(now: list[float]) -> None:
    clock = PhaseClock()
    timer = TrainTimer(clock)
    timer.on_rollout_start()
    now[0] = 5.0
    timer.on_rollout_end()
    now[0] = 9.0
    clock.add("model_fit", 1.5)
    timer.on_rollout_start()
    assert clock.report()["agent_train"] == 2.5
    timer.on_rollout_end()
    now[0] = 10.0
    timer.on_training_end()
    assert clock.report()["agent_train"] == 3.5


def test_processor_time_is_that_of_this_process() -> None:
    clock = PhaseClock()
    until = time.process_time() + 0.02
    while time.process_time() < until:
        pass
    assert 0.02 <= clock.cpu_seconds < 5.0


def test_thread_limits_reach_every_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PJRT_NPROC", "XLA_FLAGS"):
        monkeypatch.setenv(name, "")
    limit_threads(0)
    assert os.environ["OMP_NUM_THREADS"] == ""
    limit_threads(1)
    limit_threads(1)
    assert os.environ["OMP_NUM_THREADS"] == os.environ["PJRT_NPROC"] == "1"
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    with pytest.raises(ValueError, match="0 \\(no limit\\) or more"):
        limit_threads(-1)


def film_three_frames(path: Path) -> None:
    with Film(path, fps=10) as film:
        for level in (0, 120, 250):
            film.add(np.full((32, 48, 3), level, dtype=np.uint8))


def test_a_gif_holds_its_frames(tmp_path: Path) -> None:
    imageio = pytest.importorskip("imageio.v3")
    path = tmp_path / "new" / "film.gif"
    film_three_frames(path)
    frames = imageio.imread(path)
    assert frames.shape == (3, 32, 48, 3)
    assert frames[:, 16, 24, 0].tolist() == pytest.approx([0, 120, 250], abs=5)


def test_an_mp4_holds_its_frames(tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "film.mp4"
    film_three_frames(path)
    assert ffmpeg.count_frames_and_secs(path)[0] == 3


def test_other_endings_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("imageio")
    with pytest.raises(ValueError, match=r"\.mp4 or \.gif"):
        Film(tmp_path / "film.avi", 30)
