"""Agents on beliefs from the command line, tiny but whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import SAC

import mbrl_wrappers
from mbrl_wrappers.latent import LatentStateSpaceModel
from mbrl_wrappers.tasks import FrameObservation, MaskedObservation, NoisyObservation, StackedObservation
from scripts.train_latent import main
from scripts.training.latent_arguments import LEARNED, parse_latent_arguments
from scripts.training.latent_settings import latent_settings

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
