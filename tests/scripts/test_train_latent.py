"""Agents on beliefs from the command line, tiny but whole."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC

import mbrl_wrappers
from mbrl_wrappers.latent import LatentStateSpaceModel
from mbrl_wrappers.tasks import FrameObservation, MaskedObservation, NoisyObservation, StackedObservation
from sb3_ext.vec_env_state import why_vec_not_exportable
from scripts.train_latent import main
from scripts.training import latent_session
from scripts.training.latent_arguments import LEARNED, parse_latent_arguments
from scripts.training.latent_settings import latent_settings
from tests.scripts.resumed_training import the_run, torch_weights

TINY = [
    "--env", "Pendulum-v1", "--env-kwargs", "max_episode_steps:20", "--mask", "2", "-n", "60", "--eval-freq", "30",
    "--eval-episodes", "2", "--final-episodes", "3", "--seed", "5", "--device", "cpu", "--hyperparams",
    "agent.learning_starts:20", "agent.batch_size:8", "agent.policy_kwargs.net_arch:[8]", "dyna.model_train_freq:20",
    "dyna.rollout_freq:20", "dyna.min_real_rows:20", "dyna.first_fit_gradient_steps:3", "dyna.rollouts_per_step:2",
    "fit.max_gradient_steps:2", "fit.window:5", "options.hidden:[8]", "options.encoder_hidden:[8]",
    "options.memory_size:8", "window:4",
]  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore:The (posterior|learned)")


def run(folder: Path, *words: str) -> dict[str, Any]:
    assert main([*TINY, "-f", str(folder), *words]) == 0
    (found,) = folder.glob("latent-sac/*/summary.json")
    summary: dict[str, Any] = json.loads(found.read_text())
    return summary


def test_a_run_and_what_it_leaves(tmp_path: Path) -> None:
    summary = run(tmp_path)
    folder = tmp_path / "latent-sac" / "Pendulum-v1_filter_1"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"summary.json", "dynamics.safetensors", "Pendulum-v1.zip", "0.monitor.csv", "Pendulum-v1/args.yml"} <= names
    assert (summary["finished"], summary["real_steps"], summary["arm"]) == (True, 60, "sac+filter")
    assert [row["real_steps"] for row in summary["evaluations"]] == [30, 60]
    assert len(summary["model"]["final_returns"]) == 3
    assert summary["model"]["final_mean"] == pytest.approx(np.mean(summary["model"]["final_returns"]))
    assert len(summary["model"]["fits"]) == 3
    model = mbrl_wrappers.load(folder / "dynamics.safetensors")
    assert isinstance(model, LatentStateSpaceModel)
    agent = SAC.load(folder / "Pendulum-v1.zip")
    assert agent.observation_space == model.observation_space


def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    one, other = (run(tmp_path / name, "--imagine", "2") for name in "ab")
    assert one["model"]["final_returns"] == other["model"]["final_returns"]
    assert one["arm"] == "sac+filter+imagine2"


@pytest.mark.parametrize("encoder", [name for name in LEARNED if name != "filter"])
def test_every_encoder_trains(tmp_path: Path, encoder: str) -> None:
    assert run(tmp_path, "--encoder", encoder)["finished"]


@pytest.mark.parametrize("encoder", ["raw", "stack", "full"])
def test_every_baseline_trains_without_a_model(tmp_path: Path, encoder: str) -> None:
    summary = run(tmp_path, "--encoder", encoder)
    assert summary["finished"]
    assert not summary["with_model"]
    assert "fits" not in summary["model"]


def layers(*words: str) -> list[str]:
    """The wrappers of ours around the task, outermost first."""
    env: Any = latent_settings(parse_latent_arguments(list(words))).env()
    ours, found = (FrameObservation, MaskedObservation, NoisyObservation, StackedObservation), []
    while hasattr(env, "env"):
        found += [type(env).__name__] if isinstance(env, ours) else []
        env = env.env
    return found


def test_what_hides_the_state() -> None:
    assert layers() == []
    words = ["--mask", "2", "--noise", "0.1", "--encoder", "stack"]
    assert layers(*words) == ["StackedObservation", "NoisyObservation", "MaskedObservation"]
    assert layers("--mask", "2", "--encoder", "full") == []
    assert layers("--frames", "16") == ["FrameObservation"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--mask", "3"], "shows the entries 0 to 2"),
        (["--noise", "-1"], "cannot be negative"),
        (["--encoder", "stack", "--imagine", "1"], "no model to imagine with"),
        (["--frames", "16", "--mask", "2"], "leave --mask out"),
        (["--hyperparams", "options.latent:3"], "Did you mean 'latent_size'"),
        (["--hyperparams", "fit.windows:3"], "Did you mean 'window'"),
        (["--hyperparams", "colour:3"], "Unknown key 'colour'"),
    ],
)
def test_what_cannot_work_is_refused_in_words(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["--env", "Pendulum-v1", "-f", str(tmp_path / "logs"), *words])
    except SystemExit as ended:  # argparse
        code = int(str(ended.code))
    assert code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()


class Killed(BaseException):
    pass


def interrupted(argv: list[str], monkeypatch: pytest.MonkeyPatch, kill: int, number: int = 0) -> int | None:
    """Run the command; at the step ``kill`` it dies, or gets the signal ``number``; None if it died."""
    original = latent_session.StopOnSignal._on_step

    def on_step(self: Any) -> bool:
        if self.num_timesteps == kill:
            if not number:
                raise Killed
            os.kill(os.getpid(), number)
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(latent_session.StopOnSignal, "_on_step", on_step)
        try:
            return main(argv)
        except Killed:
            return None


def left(logs: Path) -> dict[str, Any]:
    """What a run left, without times and places."""
    folder = the_run(logs)
    summary = json.loads((folder / "summary.json").read_text())
    for name in ("command", "wall_seconds", "cpu_seconds", "phase_seconds"):
        del summary[name]
    for row in summary["evaluations"]:
        del row["wall_seconds"]
    for row in summary["model"].get("fits", ()):
        del row["seconds"]
    rows = [line.rpartition(",")[0] for line in (folder / "0.monitor.csv").read_text().splitlines()[2:]]
    return {"summary": summary, "episodes": rows, "files": sorted(path.name for path in folder.iterdir())}


@pytest.mark.parametrize(
    "words",
    [
        ["--imagine", "2", "--noise", "0.1"],
        pytest.param(["--encoder", "structured"], marks=pytest.mark.slow),
        pytest.param(["--encoder", "stack"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
@pytest.mark.timeout(600)
def test_a_run_that_died_twice_ends_as_one_that_did_not(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*TINY[:-1], "window:3", *words, "--checkpoint-freq", "10", "--resume", "auto"]
    whole, died = [*argv, "-f", str(tmp_path / "whole")], [*argv, "-f", str(tmp_path / "died")]
    assert main(whole) == 0
    assert interrupted(died, monkeypatch, 27) is None
    assert interrupted(died, monkeypatch, 49, signal.SIGTERM) == 143
    assert [path.name for path in (the_run(tmp_path / "died") / "checkpoints").glob("*-step-49")]
    capsys.readouterr()
    assert main(died) == 0
    assert "the run goes on at step 49" in capsys.readouterr().out
    assert left(tmp_path / "died") == left(tmp_path / "whole")
    mine, theirs = (torch_weights(tmp_path / logs) for logs in ("whole", "died"))
    assert all(th.equal(mine[name], theirs[name]) for name in mine)
    folder = the_run(tmp_path / "died")
    assert not (folder / "checkpoints").exists()
    assert main(["--resume", str(folder)]) == 0
    assert "is finished: there is nothing to resume" in capsys.readouterr().out
    assert main(["--resume", str(folder), "--seed", "6"]) == 2
    assert "has seed=5, and the command line says 6" in capsys.readouterr().err


def test_other_arguments_are_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = [*TINY, "--encoder", "raw", "-f", str(tmp_path), "--checkpoint-freq", "10", "--resume", "auto"]
    assert interrupted(argv, monkeypatch, 27) is None
    assert interrupted([*argv, "--noise", "0.1"], monkeypatch, 27) is None
    assert len(list(tmp_path.glob("latent-sac/*"))) == 2


@pytest.mark.parametrize("words", [["--mask", "2", "--noise", "0.1", "--encoder", "stack"], ["--frames", "16"]])
def test_the_state_of_what_hides_the_state_can_be_kept(words: list[str]) -> None:
    env = latent_settings(parse_latent_arguments(words)).vec_env(0)
    env.reset()
    assert why_vec_not_exportable(env) == ""
