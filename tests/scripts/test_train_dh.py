"""The double-horizon agent on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sb3_ext.agents import DoubleHorizon, DoubleHorizonConfig
from scripts.train import main
from scripts.training.agent_files import find_agent
from scripts.training.algorithms import agent_keys
from scripts.training.arguments import parse_arguments
from scripts.training.configuration import HYPERPARAMS_FOLDER
from scripts.training.run import plan_run

DH = [
    "--algo", "dh", "--env", "InvertedPendulum-v5", "-n", "80", "--eval-episodes", "1", "--eval-freq", "40",
    "--num-threads", "1", "--seed", "2", "--hyperparams", "learning_starts:60", "batch_size:8",
    "policy_kwargs.net_arch:[8]", "policy_kwargs.n_critics:2", "config.horizon:2", "config.distribution_starts:8",
    "ensemble.hidden:[8]", "fit.max_gradient_steps:10", "dyna.min_real_rows:50",
]  # fmt: skip


def test_a_run_and_its_agent(tmp_path: Path) -> None:
    assert main([*DH, "-f", str(tmp_path)]) == 0
    folder = tmp_path / "dh" / "InvertedPendulum-v5_1"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["algorithm"], summary["with_model"], summary["finished"]) == ("dh", True, True)
    assert summary["agent_updates"] == 2 * 20  # two per step after learning_starts, as the file says
    assert summary["model"]["fits"] == 1
    assert summary["hyperparameters"]["config"] == {"horizon": 2, "distribution_starts": 8}
    assert (folder / "dynamics.safetensors").is_file()
    found = find_agent(folder)
    env = found.make_env(0)
    agent = found.load(env, device="cpu")
    assert isinstance(agent, DoubleHorizon)
    assert agent.critic.n_critics == 2
    assert float(agent.critic.bounds.high) > 0
    trusted = find_agent(folder).load(env, trust=True, device="cpu")
    obs = env.reset()
    assert (agent.predict(obs, deterministic=True)[0] == trusted.predict(obs, deterministic=True)[0]).all()
    assert trusted.config == DoubleHorizonConfig(horizon=2, distribution_starts=8)  # type: ignore[attr-defined]


def test_settings_of_sac_and_of_the_agent_itself_are_known() -> None:
    keys = agent_keys(DoubleHorizon)
    assert {"config", "gamma", "tau", "policy_kwargs", "learning_starts"} < set(keys)
    assert not {"self", "env", "policy", "kwargs", "seed", "device"} & set(keys)
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("task", ["Hopper-v5", "InvertedPendulum-v5", "Pendulum-v1", "Reacher-v5"])
def test_every_entry_of_the_file_can_be_run(task: str) -> None:
    assert (HYPERPARAMS_FOLDER / "dh.yml").is_file()
    plan = plan_run(parse_arguments(["--algo", "dh", "--env", task]))
    assert plan.config.agent["gamma"] == 0.995
    assert plan.config.model["ensemble"]["num_elites"] == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--no-model"], "leave out --no-model"),
        (["--hyperparams", "config.horizn:3"], "Did you mean 'horizon'"),
        (["--hyperparams", "config.horizon:0"], "horizon must be an integer of at least 1"),
        (["--backend", "sbx"], "--backend sbx has no dh"),
    ],
)
def test_wrong_words(words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    try:
        code = main(["--algo", "dh", "--env", "Pendulum-v1", "-n", "10", "-f", str(tmp_path), *words])
    except SystemExit as left:  # the parser's own way out
        code = int(left.code or 0)
    assert code == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
