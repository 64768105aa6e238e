"""Training runs, tiny but whole."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ext.layer_norm_policies import LayerNormTD3Policy
from scripts import enjoy
from scripts.train import main
from scripts.training import session as training
from scripts.training.agent_files import find_agent

TINY = [
    "--algo", "sac", "--env", "Pendulum-v1", "-n", "120", "--eval-episodes", "2", "--eval-freq", "50",
    "--num-threads", "1", "--hyperparams", "learning_starts:20", "policy_kwargs.net_arch:[16]", "batch_size:16",
]  # fmt: skip


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_a_run_without_a_model(tmp_path: Path) -> None:
    assert main([*TINY, "--no-model", "-f", str(tmp_path), "--seed", "5", "--updates-per-step", "2"]) == 0
    folder = tmp_path / "sac" / "Pendulum-v1_1"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "summary.json", "best_model.zip", "Pendulum-v1.zip", "evaluations.npz", "0.monitor.csv",
        "averaged_model.zip", "best_averaged_model.zip",
        "Pendulum-v1/config.yml", "Pendulum-v1/args.yml", "Pendulum-v1/command.txt",
    }  # fmt: skip
    summary = summary_of(folder)
    assert summary["finished"] is True
    assert summary["with_model"] is False
    assert summary["seeds"] == {"train": 5, "evaluation": 10_005}
    assert summary["agent_updates"] == 2 * 100
    assert summary["hyperparameters"]["gradient_steps"] == 2
    assert summary["hyperparameters"]["n_timesteps"] == 120
    assert [evaluation["real_steps"] for evaluation in summary["evaluations"]] == [50, 100, 120]
    assert all(len(evaluation["returns"]) == 2 for evaluation in summary["evaluations"])
    assert summary["final_return"] == pytest.approx(np.mean(summary["evaluations"][-1]["returns"]))
    assert math.isclose(sum(summary["phase_seconds"].values()), summary["wall_seconds"], abs_tol=0.05)
    assert summary["phase_seconds"]["agent_train"] > summary["phase_seconds"]["env_step"] > 0
    assert {"python", "gymnasium", "torch", "numpy", "stable_baselines3"} <= summary["versions"].keys()
    assert "--no-model" in (folder / "Pendulum-v1" / "command.txt").read_text()
    loaded = SAC.load(folder / "Pendulum-v1.zip")
    assert loaded.num_timesteps == 120


def test_the_same_seed_gives_the_same_curve(tmp_path: Path) -> None:
    for _ in range(2):
        assert main([*TINY, "--no-model", "-f", str(tmp_path)]) == 0
    first, second = (summary_of(tmp_path / "sac" / f"Pendulum-v1_{n}")["evaluations"] for n in (1, 2))
    assert [evaluation["returns"] for evaluation in first] == [evaluation["returns"] for evaluation in second]


def test_a_killed_run_keeps_its_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    class Kill(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 60:
                raise Killed
            return True

    monkeypatch.setattr(training, "StopOnSignal", lambda: with_listening(Kill()))
    with pytest.raises(Killed):
        main([*TINY, "--no-model", "-f", str(tmp_path)])
    summary = summary_of(tmp_path / "sac" / "Pendulum-v1_1")
    assert summary["finished"] is False
    assert [evaluation["real_steps"] for evaluation in summary["evaluations"]] == [50]


def with_listening(callback: BaseCallback) -> BaseCallback:
    import contextlib

    callback.listening = contextlib.nullcontext  # type: ignore[attr-defined]
    return callback


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_sets_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    original = training.StopOnSignal._on_step

    def signal_at_70(self: training.StopOnSignal) -> bool:
        if self.num_timesteps == 70:
            os.kill(os.getpid(), number)
        return original(self)

    monkeypatch.setattr(training.StopOnSignal, "_on_step", signal_at_70)
    before = signal.getsignal(number)
    assert main([*TINY, "--no-model", "-f", str(tmp_path)]) == code
    assert signal.getsignal(number) is before
    folder = tmp_path / "sac" / "Pendulum-v1_1"
    summary = summary_of(folder)
    assert (summary["finished"], summary["stopped_by"], summary["real_steps"]) == (False, f"signal {number}", 70)
    assert SAC.load(folder / "Pendulum-v1.zip").num_timesteps == 70


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--env", "Hoper-v5"], r"no environment 'Hoper-v5'. Did you mean 'Hopper-v5'?"),
        (["--hyperparams", "learning_rat:1"], "Did you mean 'learning_rate'?"),
        (["--backend", "sbx", "--algo", "qrdqn"], "--backend sbx has no qrdqn"),
        (["--algo", "ppo", "--updates-per-step", "2"], "no meaning for the on-policy ppo"),
        (["--device", "abacus"], "--device abacus cannot be used here (Expected one of"),
        (["--env", "CartPole-v1"], "only supports"),  # these are found out by building the agent
        (["--hyperparams", "policy:LinearPolicy"], "LinearPolicy"),
        (["--hyperparams", "policy_kwargs.activation_fn:sine"], "activation_fn must be one of"),
        (["--env-kwargs", "colour:red"], "colour"),
    ],
)
def test_mistakes_leave_no_folder(
    tmp_path: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--no-model", "-f", str(tmp_path), *argv]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("library", "argv"),
    [("tensorboard", ["-tb", "board"]), ("rich", ["-P"]), ("tqdm", ["-P"]), ("sb3_contrib", ["--algo", "tqc"])],
)
def test_missing_libraries_are_named_before_a_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    assert main(["--no-model", "-f", str(tmp_path), *argv]) == 2
    assert f"needs {library}, which is not installed: pip install" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_parallel_environments_and_checkpoints(tmp_path: Path) -> None:
    argv = [*TINY, "--no-model", "-f", str(tmp_path), "--n-envs", "2", "--save-freq", "60", "--save-replay-buffer"]
    assert main(argv) == 0
    folder = tmp_path / "sac" / "Pendulum-v1_1"
    assert {path.name for path in folder.glob("*.monitor.csv")} == {"0.monitor.csv", "1.monitor.csv"}
    assert (folder / "rl_model_60_steps.zip").exists()
    assert (folder / "replay_buffer.pkl").exists()
    assert [evaluation["real_steps"] for evaluation in summary_of(folder)["evaluations"]] == [50, 100, 120]


def test_the_average_meets_the_starts_of_the_raw_actor(tmp_path: Path) -> None:
    """With a time constant of one step the average is the actor that took the step, so that it returns the same."""
    assert main([*TINY, "--no-model", "-f", str(tmp_path), "--average-steps", "1"]) == 0
    assert main([*TINY, "--no-model", "-f", str(tmp_path), "--average-steps", "30"]) == 0
    copied, averaged = (summary_of(tmp_path / "sac" / f"Pendulum-v1_{number}") for number in (1, 2))
    assert (copied["average_steps"], averaged["average_steps"]) == (1, 30)
    for raw, same in list(zip(copied["evaluations"], copied["averaged_evaluations"], strict=True))[:2]:
        assert (raw["real_steps"], raw["returns"], raw["lengths"]) == (
            same["real_steps"], same["returns"], same["lengths"]
        )  # fmt: skip
    # The agent itself, its evaluations included, does not depend on the average.
    returns = [[evaluation["returns"] for evaluation in each["evaluations"]] for each in (copied, averaged)]
    assert returns[0] == returns[1]
    values = averaged["averaged_evaluations"]
    assert [evaluation["real_steps"] for evaluation in values] == [50, 100, 120]
    assert all(one["returns"] != other for one, other in zip(values, returns[1], strict=True))
    assert averaged["averaged_final_return"] == pytest.approx(np.mean(values[-1]["returns"]))
    assert averaged["averaged_best_return"] == max(np.mean(evaluation["returns"]) for evaluation in values)


def test_the_zips_of_the_average_play_what_was_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--no-model", "-f", str(tmp_path), "--average-steps", "30", "--eval-episodes", "1"]) == 0
    folder = tmp_path / "sac" / "Pendulum-v1_1"
    own, average, best = (
        SAC.load(folder / name) for name in ("Pendulum-v1.zip", "averaged_model.zip", "best_averaged_model.zip")
    )
    assert (own.num_timesteps, average.num_timesteps) == (120, 120)
    values = [evaluation["returns"][0] for evaluation in summary_of(folder)["averaged_evaluations"]]
    assert best.num_timesteps == [50, 100, 120][int(np.argmax(values))]
    obs = np.array([[0.5, 0.5, 1.0]], np.float32)
    for flags, agent in (([], own), (["--averaged"], average), (["--averaged", "--load-best"], best)):
        found = find_agent(folder, best="--load-best" in flags, averaged="--averaged" in flags)
        env = found.make_env(0)
        assert found.load(env).predict(obs, deterministic=True)[0] == agent.predict(obs, deterministic=True)[0]
        env.close()
        assert enjoy.main([str(folder), "--n-episodes", "1", *flags]) == 0
        assert str(found.path) in capsys.readouterr().out


def test_no_average_when_none_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--no-model", "-f", str(tmp_path), "--average-steps", "0"]) == 0
    folder = tmp_path / "sac" / "Pendulum-v1_1"
    assert (summary_of(folder)["average_steps"], summary_of(folder)["averaged_evaluations"]) == (0, [])
    assert not list(folder.glob("*averaged*"))
    assert "averaged" not in capsys.readouterr().out


def test_on_policy_agents_have_no_average(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--algo", "ppo", "--env", "Pendulum-v1", "-n", "64", "--eval-episodes", "1", "--no-model"]
    argv += ["-f", str(tmp_path), "--hyperparams", "n_steps:64", "policy_kwargs.net_arch:[8]"]
    assert main([*argv, "--average-steps", "5"]) == 2
    assert "--average-steps and --use-average are for off-policy agents" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main(argv) == 0
    assert summary_of(tmp_path / "ppo" / "Pendulum-v1_1")["average_steps"] == 0


def test_a_yaml_file_can_name_the_policy_with_normalised_critics(tmp_path: Path) -> None:
    argv = ["--env", "Pendulum-v1", "-n", "30", "--no-model", "-f", str(tmp_path), "--eval-freq", "30"]
    argv += ["--eval-episodes", "1", "--hyperparams", "policy:LayerNormPolicy"]
    assert main(["--algo", "td3", *argv]) == 0
    (run,) = (tmp_path / "td3").iterdir()
    agent = find_agent(run)
    loaded = agent.load(agent.make_env(0), device="cpu")
    assert type(loaded.policy) is LayerNormTD3Policy
    for words in (["--algo", "ppo"], ["--algo", "sac", "--backend", "sbx"]):
        assert main([*words, *argv]) == 2
