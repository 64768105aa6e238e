"""``train.py --resume``: a run that was killed or stopped ends as one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from mbrl_wrappers.storage.run_checkpoint import RunCheckpoints
from scripts.train import main
from scripts.training import session
from tests.scripts.resumed_training import arguments, outcome, process, the_run, torch_weights


class Killed(BaseException):
    pass


def train(argv: list[str], monkeypatch: pytest.MonkeyPatch, kill: int | None = None, number: int = 0) -> int | None:
    """Run ``train.py`` here; at the step ``kill`` it dies, or gets the signal ``number``; None if it died."""
    original = session.StopOnSignal._on_step

    def on_step(self: BaseCallback) -> bool:
        if kill is not None and self.num_timesteps == kill:
            if not number:
                raise Killed
            os.kill(os.getpid(), number)
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(session.StopOnSignal, "_on_step", on_step)
        try:
            return main(argv)
        except Killed:
            return None


def assert_same(one: Path, other: Path) -> None:
    mine, theirs = outcome(one), outcome(other)
    for part in mine:
        assert mine[part] == theirs[part], part


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "more",
    [pytest.param([], marks=pytest.mark.slow), ["--n-envs", "2", "--use-average", "acting", "branching"]],
    ids=["one environment", "two environments"],
)
def test_a_run_that_died_twice_ends_as_one_that_did_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*arguments(), *more]
    assert main([*argv, "-f", str(tmp_path / "whole")]) == 0
    died = [*argv, "-f", str(tmp_path / "died"), "--resume", "auto"]
    assert train(died, monkeypatch, kill=50) is None
    assert train(died, monkeypatch, kill=118) is None
    capsys.readouterr()
    assert train(died, monkeypatch) == 0
    assert "the run goes on at step 100" in capsys.readouterr().out
    assert_same(tmp_path / "whole", tmp_path / "died")
    for name in ("Pendulum-v1.zip", "averaged_model.zip", "best_model.zip", "best_averaged_model.zip"):
        mine, theirs = (torch_weights(tmp_path / logs, name) for logs in ("whole", "died"))
        assert all(th.equal(mine[key], theirs[key]) for key in mine)
    folder = the_run(tmp_path / "died")
    assert not (folder / "checkpoints").exists()
    arrays = [np.load(the_run(tmp_path / logs) / "evaluations.npz") for logs in ("whole", "died")]
    for name in arrays[0].files:
        np.testing.assert_array_equal(arrays[0][name], arrays[1][name])
    assert main(["--resume", str(folder)]) == 0
    assert "is finished: there is nothing to resume" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "argv",
    [
        ["dqn", "CartPole-v1"],
        ["td3", "Pendulum-v1"],
        ["crossq", "Pendulum-v1", "--backend", "sbx"],
        ["ppo", "Pendulum-v1"],
        ["ppo", "Pendulum-v1", "--no-model"],
    ],
    ids=" ".join,
)
def test_other_agents_that_died_end_as_those_that_did_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    algo, env, *more = argv
    if algo == "ppo":
        agent = ["n_steps:16", "batch_size:16", "n_epochs:2", "policy_kwargs.net_arch:[8]"]
        cycles = ["initial_steps:40", "cycle_steps:30", "imagined_steps:64", "num_envs:4", "horizon:8"]
        words = arguments(algo, env, 150, 1)
        words[words.index("--hyperparams") + 1 :] = [
            *agent,
            *(f"imagination.{each}" for each in cycles if "--no-model" not in more),
            *(["fit.max_gradient_steps:5", "ensemble.hidden:[8]"] if "--no-model" not in more else []),
        ]
    else:
        words = arguments(algo, env)
    assert main([*words, *more, "-f", str(tmp_path / "whole")]) == 0
    died = [*words, *more, "-f", str(tmp_path / "died"), "--resume", "auto"]
    for kill in (50, 118):
        assert train(died, monkeypatch, kill=kill) is None
    assert train(died, monkeypatch) == 0
    assert_same(tmp_path / "whole", tmp_path / "died")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_a_signal_saves_where_the_run_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    argv = arguments(steps=70)
    assert main([*argv, "-f", str(tmp_path / "whole")]) == 0
    stopped = [*argv, "-f", str(tmp_path / "stopped")]
    assert train(stopped, monkeypatch, kill=47, number=number) == code
    folder = the_run(tmp_path / "stopped")
    left = outcome(tmp_path / "stopped")["summary"]
    assert (left["finished"], left["stopped_by"], left["real_steps"]) == (False, f"signal {number}", 47)
    assert [path.name for path in (folder / "checkpoints").glob("*step-47")]
    assert main(["--resume", str(folder)]) == 0
    assert_same(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_signal_in_imagination_saves_between_cycles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["--algo", "ppo", "--env", "Pendulum-v1", "-n", "150", "--eval-episodes", "1", "--eval-freq", "40"]
    argv += ["--checkpoint-freq", "1000", "--hyperparams", "n_steps:16", "batch_size:16", "n_epochs:2"]
    cycles = ["initial_steps:40", "cycle_steps:30", "imagined_steps:64", "num_envs:4", "horizon:8"]
    argv += [*(f"imagination.{each}" for each in cycles), "fit.max_gradient_steps:5", "ensemble.hidden:[8]"]
    assert main([*argv, "-f", str(tmp_path / "whole")]) == 0
    assert train([*argv, "-f", str(tmp_path / "stopped")], monkeypatch, kill=50, number=signal.SIGTERM) == 143
    folder = the_run(tmp_path / "stopped")
    assert [path.name for path in (folder / "checkpoints").glob("*step-70")]
    assert main(["--resume", str(folder)]) == 0
    assert_same(tmp_path / "whole", tmp_path / "stopped")


def test_without_a_checkpoint_the_run_begins_anew_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = arguments(steps=60, every=50)
    assert main([*argv, "-f", str(tmp_path / "whole")]) == 0
    died = [*argv, "-f", str(tmp_path / "died"), "--resume", "auto"]
    assert train(died, monkeypatch, kill=30) is None
    assert train(died, monkeypatch) == 0
    assert_same(tmp_path / "whole", tmp_path / "died")


def test_what_cannot_be_resumed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*arguments(steps=60), "-f", str(tmp_path)]
    assert train(argv, monkeypatch, kill=50) is None
    folder = the_run(tmp_path)

    def message(*words: str) -> str:
        assert main(list(words)) == 2
        return capsys.readouterr().err

    assert "is no run folder of train.py" in message("--resume", str(tmp_path))
    said = message("--resume", str(folder), "--seed", "3")
    assert "has seed=0, and the command line says 3: leave it out" in said
    with RunCheckpoints(folder / "checkpoints").lock():
        assert "is in use by process" in message("--resume", str(folder))
    settings = folder / "Pendulum-v1" / "config.yml"
    settings.write_text(settings.read_text().replace("batch_size: 16", "batch_size: 17"))
    assert "have changed since it was started: batch_size was 17 and is 16" in message("--resume", str(folder))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_auto_takes_the_newest_run_of_the_same_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = [*arguments(steps=60), "-f", str(tmp_path), "--resume", "auto"]
    assert train([*argv, "--seed", "1"], monkeypatch, kill=50) is None
    assert train([*argv, "--seed", "2"], monkeypatch, kill=30) is None
    names = sorted(path.name for path in (tmp_path / "sac").iterdir())
    assert names == ["Pendulum-v1_1", "Pendulum-v1_2"]
    assert train([*argv, "--seed", "1"], monkeypatch) == 0
    assert (tmp_path / "sac" / "Pendulum-v1_1" / "Pendulum-v1.zip").exists()
    assert sorted(path.name for path in (tmp_path / "sac").iterdir()) == names


def kill_at_random(running: subprocess.Popen[str], checkpoints: Path, rng: np.random.Generator) -> bool:
    """SIGKILL at a random instant: while the run starts, while it saves, or between; whether it was killed."""
    there = set(checkpoints.glob("*-step-*"))

    def has_saved() -> bool:
        return bool(set(checkpoints.glob("*-step-*")) - there)

    kind = rng.choice(["starting", "saving", "between"], p=[0.1, 0.45, 0.45])
    if kind == "starting":
        time.sleep(rng.uniform(0, 5))
    elif kind == "saving":
        after = rng.integers(2)  # how many checkpoints it may finish before
        while running.poll() is None and not (
            any(checkpoints.glob(".unfinished-*")) and len(set(checkpoints.glob("*-step-*")) - there) >= after
        ):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
    else:
        while running.poll() is None and not has_saved():
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1))
    running.send_signal(signal.SIGKILL)
    running.communicate()
    return running.returncode == -signal.SIGKILL


def assert_kills_leave_no_trace(tmp_path: Path, argv: list[str], kills: int) -> int:
    """Kill ``train.py`` up to ``kills`` times at random instants, let it end, and compare with a whole run."""
    rng = np.random.default_rng(kills)
    assert main([*argv, "-f", str(tmp_path / "whole")]) == 0
    words = [*argv, "-f", str(tmp_path / "killed"), "--resume", "auto"]
    killed, folder = 0, tmp_path / "killed" / "sac" / "Pendulum-v1_1"
    for _ in range(kills):
        killed += kill_at_random(process(words), folder / "checkpoints", rng)
    last = process(words)
    output = last.communicate()[0]
    assert last.returncode == 0, output
    assert_same(tmp_path / "whole", tmp_path / "killed")
    return killed


@pytest.mark.timeout(600)
def test_a_run_that_is_killed_at_random_ends_as_one_that_was_not(tmp_path: Path) -> None:
    assert assert_kills_leave_no_trace(tmp_path, arguments(steps=90, every=5), 2) == 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_that_is_killed_many_times_ends_as_one_that_was_not(tmp_path: Path) -> None:
    assert assert_kills_leave_no_trace(tmp_path, arguments(steps=900, every=15), 24) >= 20
