"""PETS from the command line, tiny but whole."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

import mbrl_wrappers
from mbrl_wrappers.storage.checkpoint import load_starts
from mbrl_wrappers.storage.run_checkpoint import RunCheckpoints
from scripts.planning import learning
from scripts.planning.arguments import TrainPlannerArguments, parse_train_arguments
from scripts.runs.reading import find_runs
from scripts.table import results_table
from scripts.train_planner import main

FEW = [
    "population:8", "iterations:2", "trial_steps:12", "initial_random_steps:20", "max_gradient_steps:5",
    "ensemble.hidden:[8]", "ensemble.num_members:2", "ensemble.num_elites:2",
]  # fmt: skip
TINY = ["--env", "Pendulum-v1", "--horizon", "3", "--particles", "2", "--hyperparams", *FEW]


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def outcome(summary: dict[str, Any]) -> list[Any]:
    """What must not depend on the clock, nor on where the run was interrupted."""
    timed = {"plan_milliseconds"}
    trials = [{key: row[key] for key in row if key not in timed} for row in summary["planning"]["trials"]]
    fits = [{key: fit[key] for key in fit if key != "seconds"} for fit in summary["model"]["history"]]
    evaluations = [(row["real_steps"], row["returns"], row["lengths"]) for row in summary["evaluations"]]
    return [trials, fits, evaluations, summary["real_steps"], summary["finished"]]


def monitored(folder: Path) -> list[str]:
    """The rows of the monitor without the times."""
    return [line.rpartition(",")[0] for line in (folder / "0.monitor.csv").read_text().splitlines()[2:]]


def test_a_run_and_what_it_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = tmp_path / "board"
    words = [*TINY, "--trials", "2", "--eval-episodes", "2", "--seed", "4", "-f", str(tmp_path), "-P", "--tag", "mine"]
    assert main([*words, "-tb", str(board)]) == 0
    folder = tmp_path / "pets" / "Pendulum-v1_mine_1"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {name for name in names if not name.startswith("progress/")} == {
        "summary.json", "dynamics.safetensors", "0.monitor.csv", "Pendulum-v1/config.yml", "Pendulum-v1/args.yml",
        "Pendulum-v1/command.txt",
    }  # fmt: skip
    assert RunCheckpoints(folder / "progress").steps() == [20, 32, 44]
    assert list(board.rglob("events*"))
    summary = summary_of(folder)
    assert (summary["algorithm"], summary["arm"], summary["with_model"], summary["finished"]) == (
        "pets", "mine", True, True,
    )  # fmt: skip
    assert summary["seeds"] == {"train": 4, "evaluation": 10_004}
    assert summary["real_steps"] == 20 + 2 * 12
    trials = summary["planning"]["trials"]
    assert [(row["random"], row["length"]) for row in trials] == [(True, 12), (True, 8), (False, 12), (False, 12)]
    assert [row["plans"] for row in trials] == [0, 0, 12, 12]
    # Each trial of the planner is an evaluation of the model before it; the last one has episodes of its own.
    assert [row["real_steps"] for row in summary["evaluations"]] == [20, 32, 44]
    assert [row["returns"] for row in summary["evaluations"][:2]] == [[row["real_return"]] for row in trials[2:]]
    assert summary["evaluations"][2]["lengths"] == [12, 12]
    assert summary["final_return"] == pytest.approx(np.mean(summary["evaluations"][2]["returns"]))
    assert [fit["rows"] for fit in summary["model"]["history"]] == [20, 32, 44]
    phases = summary["phase_seconds"]
    assert phases["planning"] > 0 < phases["model_fit"]
    assert phases["evaluation"] > 0 < phases["env_step"]
    assert math.isclose(sum(phases.values()), summary["wall_seconds"], abs_tol=0.05)
    hyperparameters = summary["hyperparameters"]
    assert hyperparameters["cem"]["population"] == 8
    assert (hyperparameters["horizon"], hyperparameters["particles"], hyperparameters["trials"]) == (3, 2, 2)
    assert hyperparameters["model"]["ensemble"]["propagation"] == "tsinf"
    assert {"python", "gymnasium", "torch", "numpy"} <= summary["versions"].keys()

    model = mbrl_wrappers.load(folder / "dynamics.safetensors")
    starts = load_starts(folder / "dynamics.safetensors")
    assert starts is not None
    assert starts.shape == (4, 3)
    assert model.propagation == "tsinf"
    out = capsys.readouterr().out
    assert "trial 3" in out
    assert "evaluation 2: return" in out
    assert "| Pendulum-v1 | mine | 1 |" in results_table(find_runs([tmp_path / "pets"]), [])


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([*TINY, "--trials", "3", "-f", str(tmp_path)]) == 0
    original = learning.PlannerTraining.on_step

    def signal_in_the_second_trial(self: Any, step: Any) -> bool:
        if (step.trial, step.length) == (3, 5):
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(learning.PlannerTraining, "on_step", signal_in_the_second_trial)
        assert main([*TINY, "--trials", "3", "-f", str(tmp_path)]) == 130
    whole, cut = (tmp_path / "pets" / f"Pendulum-v1_{number}" for number in (1, 2))
    summary = summary_of(cut)
    assert (summary["finished"], summary["stopped_by"], summary["real_steps"]) == (False, "signal 2", 32)
    assert RunCheckpoints(cut / "progress").steps()[-1] == 37  # in the middle of the trial
    seconds = summary["wall_seconds"]
    assert main(["--resume", str(cut)]) == 0
    again = summary_of(cut)
    assert outcome(again) == outcome(summary_of(whole))
    assert (again["stopped_by"], again["arm"]) == (None, "pets-cem")
    assert again["wall_seconds"] > seconds
    assert again["command"].count("train_planner.py") == 2
    models = [mbrl_wrappers.load(folder / "dynamics.safetensors").state_dict() for folder in (whole, cut)]
    assert all(th.equal(tensor, models[1][name]) for name, tensor in models[0].items())
    assert monitored(cut) == monitored(whole)


def test_a_finished_run_can_be_given_more_trials(tmp_path: Path) -> None:
    assert main([*TINY, "--trials", "2", "-f", str(tmp_path)]) == 0
    assert main([*TINY, "--trials", "1", "-f", str(tmp_path), "--eval-episodes", "1"]) == 0
    assert main(["--resume", str(tmp_path / "pets" / "Pendulum-v1_2"), "--trials", "2"]) == 0
    whole, longer = (summary_of(tmp_path / "pets" / f"Pendulum-v1_{number}") for number in (1, 2))
    assert len(longer["evaluations"]) == 3  # the evaluation of the shorter run is gone, its own is there
    longer["evaluations"].pop()
    assert outcome(longer) == outcome(whole)


def test_the_same_command_line_goes_on_or_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*TINY, "--trials", "2", "-f", str(tmp_path), "--checkpoint-freq", "3", "--resume", "auto"]
    assert main(words) == 0  # there is nothing to go on with
    original = learning.PlannerTraining.on_step

    def killed(self: Any, step: Any) -> bool:
        if step.real_steps == 28:
            raise KeyboardInterrupt
        return original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(learning.PlannerTraining, "on_step", killed)
        with pytest.raises(KeyboardInterrupt):
            main(words)  # the first run is finished, so this is another one
    whole, cut = (tmp_path / "pets" / f"Pendulum-v1_{number}" for number in (1, 2))
    assert RunCheckpoints(cut / "progress").steps()[-1] == 26
    assert main([*TINY, "--trials", "3", "-f", str(tmp_path), "--checkpoint-freq", "3", "--resume", "auto"]) == 0
    assert not summary_of(cut)["finished"]  # that was another command line
    assert main(words) == 0
    assert outcome(summary_of(cut)) == outcome(summary_of(whole))
    assert monitored(cut) == monitored(whole)
    assert sorted(path.name for path in (tmp_path / "pets").iterdir())[-1] == "Pendulum-v1_3"


def test_a_finished_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--trials", "1", "-f", str(tmp_path)]) == 0
    folder = tmp_path / "pets" / "Pendulum-v1_1"
    before = summary_of(folder)
    assert main(["--resume", str(folder)]) == 0
    assert "is finished" in capsys.readouterr().out
    assert summary_of(folder) == before


@pytest.mark.parametrize("planner", ["icem", "mppi", "random"])
@pytest.mark.parametrize("propagation", ["ts1", "mean"])
def test_every_planner_and_propagation(tmp_path: Path, planner: str, propagation: str) -> None:
    words = [word for word in TINY if planner != "random" or not word.startswith("iterations")]
    words = ["--planner", planner, "--propagation", propagation, "--trials", "1", "-f", str(tmp_path), *words]
    assert main([*words, *(["num_elites:2"] if planner == "icem" else []), "-n", "30"]) == 0
    summary = summary_of(tmp_path / "pets" / "Pendulum-v1_1")
    assert (summary["arm"], summary["real_steps"]) == (f"pets-{planner}", 30)
    assert summary["evaluations"] == []  # the limit of steps cut the only trial short
    assert summary["hyperparameters"]["model"]["ensemble"]["propagation"] == propagation
    assert planner in summary["hyperparameters"]
    assert "cem" not in summary["hyperparameters"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--env", "Pendulun-v1"], "Did you mean 'Pendulum-v1'?"),
        (["--hyperparams", "elite_ration:1"], "Did you mean 'elite_ratio'?"),
        (["--hyperparams", "icem.sigma:1", "--planner", "icem"], "Unknown key 'sigma' in the icem block"),
        (["--hyperparams", "elite_ratio:2"], "elite_ratio must be"),
        (["--hyperparams", "ensemble.num_elites:9"], "num_elites <= num_members"),
        (["--hyperparams", "trial_step:9"], "Did you mean 'trial_steps'?"),
        (["--execute", "9", "--horizon", "3"], "Cannot execute 9 actions of a plan of 3"),
        (["--env", "CartPole-v1", "--planner", "icem"], "ICEM plans continuous actions"),
        (["--particles", "0"], "particles must be"),
        (["--device", "abacus"], "--device abacus cannot be used"),
        (["--resume", "nowhere"], "no run folder of train_planner.py"),
    ],
)
def test_mistakes_leave_no_folder(
    tmp_path: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--env", "Pendulum-v1", "-f", str(tmp_path), *argv]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("library", "argv"), [("tensorboard", ["-tb", "board"]), ("tqdm", ["-P"])])
def test_missing_libraries_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    assert main([*TINY, "-f", str(tmp_path), *argv]) == 2
    assert f"needs {library}, which is not installed: pip install" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_arguments() -> None:
    assert parse_train_arguments([]) == TrainPlannerArguments()
    words = (
        "--env Ant-v5 --planner mppi -n 9 --trials 3 --propagation mean --particles 4 --horizon 7 --seed 2 "
        "--hyperparams a:1 --tag x -f out --eval-episodes 2 -P"
    )
    args = parse_train_arguments(words.split())
    assert (args.env, args.planner, args.n_timesteps, args.trials, args.arm) == ("Ant-v5", "mppi", 9, 3, "x")
    assert (args.propagation, args.particles, args.horizon, args.hyperparams) == ("mean", 4, 7, {"a": 1})


@pytest.mark.parametrize(
    "argv",
    [
        ["-n", "0"],
        ["--trials", "-3"],
        ["--checkpoint-freq", "0"],
        ["--eval-episodes", "-1"],
        ["--tag", "a/b"],
        ["--planner", "ilqr"],
    ],
)
def test_flags_that_make_no_sense_are_refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit):
        parse_train_arguments(argv)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_pets_balances_the_cart_pole(tmp_path: Path) -> None:
    quick = ["--particles", "5", "--hyperparams", "population:100", "iterations:3"]
    assert main(["--trials", "4", "-f", str(tmp_path), *quick]) == 0
    summary = summary_of(tmp_path / "pets" / "mbrl_wrappers-ContinuousCartPole-v0_1")
    returns = [row["returns"][0] for row in summary["evaluations"]]
    assert max(returns) >= 180, returns
    random = [row["real_return"] for row in summary["planning"]["trials"] if row["random"]]
    assert max(random) < 180
