"""The demonstration, with the two trainings made tiny and run one after the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import demo
from scripts.train import main as train

TINY = demo.DemoArguments(
    env="InvertedPendulum-v5",
    n_timesteps=160,
    updates_per_step=1.0,
    eval_episodes=1,
    hyperparams=(
        "learning_starts:80 policy_kwargs.net_arch:[16] batch_size:16 ensemble.hidden:[16] ensemble.num_members:2 "
        "ensemble.num_elites:2 fit.max_gradient_steps:10 dyna.rollouts_per_step:1 dyna.min_real_rows:80"
    ),
)


def flags(args: demo.DemoArguments) -> list[str]:
    return [
        word
        for name, value in vars(args).items()
        for word in (f"--{name.replace('_', '-')}", str(value))
        if name != "output"
    ]


def test_arms_differ_in_the_model_only() -> None:
    args = demo.parse_arguments(["--env", "Hopper-v5"])
    with_model, without = (demo.train_command(args, arm, Path("runs")) for arm in demo.ARMS)
    assert set(with_model) ^ set(without) == {"with_model", "without_model", "-P", "--no-model"}


def test_help_says_what_every_option_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        demo.parse_arguments(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--seed SEED of everything (default: 0)" in text
    assert text.count("(default: ") == len(vars(TINY))


def test_earlier_runs_stay(tmp_path: Path) -> None:
    assert [demo.new_runs_folder(tmp_path / "demo").name for _ in range(2)] == ["runs_1", "runs_2"]


def test_everything_is_left_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train_both(args: demo.DemoArguments, runs: Path) -> None:
        for arm in demo.ARMS:
            words = [word for word in demo.train_command(args, arm, runs)[2:] if word != "-P"]
            assert train(words) == 0

    monkeypatch.setattr(demo, "train_both", train_both)
    monkeypatch.setattr(demo, "make_film", lambda folder, path: False)
    monkeypatch.setattr(demo, "HORIZON", 2)
    assert demo.main([*flags(TINY), "--output", str(tmp_path)]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "runs_1", "returns.png", "model_error.png", "model_trajectories.png", "agent.zip", "dynamics.safetensors",
        "demo.json",
    }  # fmt: skip
    summary = json.loads((tmp_path / "demo.json").read_text())
    assert summary["with_model"]["agent_updates"] == summary["without_model"]["agent_updates"] == 80
    out = capsys.readouterr().out
    assert f'SAC.load("{tmp_path}/agent.zip")' in out
    assert "film.mp4" not in out
    code = out.split("To load them:")[1].split("   python scripts")[0]
    lines = "\n".join(line[4:] for line in code.splitlines() if line.startswith("    "))
    exec(compile(lines, "printed", "exec"), {})  # what is printed works


def test_a_failed_training_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--output", str(tmp_path), "--env", "Hoper-v5"]) == 1
    assert "Training with the model ended with exit code 2" in capsys.readouterr().err


def test_no_film_is_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.make_film(tmp_path, tmp_path / "film.mp4") is False
    assert "Going on without" in capsys.readouterr().out
