"""Value expansion and NAF on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sb3_ext.agents import MVESAC, NAF, STEVEDDPG, ExpansionConfig
from scripts.train import main
from scripts.training.agent_files import find_agent
from scripts.training.algorithms import agent_keys
from scripts.training.arguments import MODEL_ONLY, parse_arguments
from scripts.training.run import plan_run

SMALL = [
    "--env", "InvertedPendulum-v5", "-n", "80", "--eval-episodes", "1", "--eval-freq", "40", "--num-threads", "1",
    "--seed", "2", "--hyperparams", "learning_starts:60", "batch_size:8", "policy_kwargs.net_arch:[8]",
    "ensemble.hidden:[8]", "fit.max_gradient_steps:10", "dyna.min_real_rows:50",
]  # fmt: skip


@pytest.mark.parametrize(
    ("algo", "cls", "words", "updates"),
    [
        ("mve-sac", MVESAC, ["config.horizon:2"], 80),
        ("steve-ddpg", STEVEDDPG, ["config.members:2"], 80),
        ("naf", NAF, [], 200),
    ],
)
def test_a_run_and_its_agent(algo: str, cls: type[Any], words: list[str], updates: int, tmp_path: Path) -> None:
    assert main(["--algo", algo, *SMALL, *words, "-f", str(tmp_path)]) == 0
    folder = tmp_path / algo / "InvertedPendulum-v5_1"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["algorithm"], summary["with_model"], summary["finished"]) == (algo, True, True)
    assert summary["agent_updates"] == updates  # of 20 steps after learning_starts, as the file says
    assert summary["model"]["fits"] == 1
    found = find_agent(folder)
    env = found.make_env(0)
    agent, trusted = found.load(env, device="cpu"), found.load(env, trust=True, device="cpu")
    assert isinstance(agent, cls)
    obs = env.reset()
    assert (agent.predict(obs, deterministic=True)[0] == trusted.predict(obs, deterministic=True)[0]).all()
    if algo == "mve-sac":
        assert trusted.config == ExpansionConfig(horizon=2)  # type: ignore[attr-defined]


def test_the_keys_of_the_parent_are_known() -> None:
    keys = agent_keys(STEVEDDPG)
    assert {"config", "gamma", "tau", "policy_kwargs", "learning_starts"} < set(keys)
    assert not {"self", "env", "policy", "kwargs", "seed", "device"} & set(keys)
    assert "covariance_noise" in agent_keys(NAF)


@pytest.mark.parametrize("algo", [*MODEL_ONLY, "naf"])
@pytest.mark.parametrize("task", ["InvertedPendulum-v5", "Pendulum-v1", "Reacher-v5"])
def test_every_file_can_be_run(algo: str, task: str) -> None:
    plan = plan_run(parse_arguments(["--algo", algo, "--env", task]))
    assert plan.config.model["dyna"]["model_train_freq"] == 250


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--no-model"], "leave out --no-model, or take --algo sac"),
        (["--hyperparams", "config.horizn:3"], "Did you mean 'horizon'"),
        (["--hyperparams", "config.horizon:-1"], "horizon must be"),
        (["--backend", "sbx"], "--backend sbx has no mve-sac"),
    ],
)
def test_wrong_words(words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    try:
        code = main(["--algo", "mve-sac", "--env", "Pendulum-v1", "-n", "10", "-f", str(tmp_path), *words])
    except SystemExit as left:  # the parser's own way out
        code = int(left.code or 0)
    assert code == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
