"""YAML entries: merging, replacements, unknown keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.training.algorithms import ON_POLICY, agent_class, agent_keys
from scripts.training.arguments import ALGORITHMS
from scripts.training.configuration import (
    HYPERPARAMS_FOLDER,
    load_configuration,
    merge,
    nested,
    parse_assignments,
    parse_yaml,
)

ENTRY = """
default:
  n_timesteps: 1000
  learning_rate: 3e-4
  policy_kwargs: {net_arch: [64, 64], activation: relu}
  model:
    real_ratio: 0.05
    dyna: {rollouts_per_step: 400, rollout_freq: 250}
Hopper-v5:
  learning_rate: 1e-3
  policy_kwargs: {net_arch: [8]}
  model:
    dyna: {rollouts_per_step: 100}
"""
KEYS = ("learning_rate", "policy_kwargs", "gradient_steps")
TAU_KEYS = ("tau", "gamma", "policy_kwargs", "batch_size")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "sac.yml"
    file.write_text(ENTRY)
    return file


def test_entry_is_laid_on_the_default(path: Path) -> None:
    config = load_configuration(path, "Hopper-v5", KEYS)
    assert config.agent == {"learning_rate": 0.001, "policy_kwargs": {"net_arch": [8], "activation": "relu"}}
    assert config.model == {"real_ratio": 0.05, "dyna": {"rollouts_per_step": 100, "rollout_freq": 250}}
    assert config.run == {"n_timesteps": 1000}


def test_unlisted_environment_takes_the_default(path: Path) -> None:
    assert load_configuration(path, "Walker2d-v5", KEYS).agent["policy_kwargs"]["net_arch"] == [64, 64]


def test_command_line_wins_over_the_file(path: Path) -> None:
    words = ["policy_kwargs.net_arch:[4,4]", "dyna.rollout_freq:50", "real_ratio:0.5", "gradient_steps:7"]
    config = load_configuration(path, "Hopper-v5", KEYS, parse_assignments(words))
    assert config.agent["policy_kwargs"] == {"net_arch": [4, 4], "activation": "relu"}
    assert config.agent["gradient_steps"] == 7
    assert config.model == {"real_ratio": 0.5, "dyna": {"rollouts_per_step": 100, "rollout_freq": 50}}


def test_command_line_wins_over_what_the_file_says_of_the_agent_with_a_model(tmp_path: Path) -> None:
    path = tmp_path / "sac.yml"
    path.write_text(
        "default:\n  tau: 0.1\n  model:\n    agent:\n      tau: 0.2\n      gamma: 0.9\n"
        "      policy_kwargs: {net_arch: [8], n_critics: 3}\n"
    )
    given = {"tau": 0.3, "policy_kwargs.net_arch": [16], "batch_size": 5}
    config = load_configuration(path, "Hopper-v5", TAU_KEYS, given)
    assert config.agent == {"tau": 0.3, "policy_kwargs": {"net_arch": [16]}, "batch_size": 5}
    assert config.model["agent"] == {"tau": 0.3, "gamma": 0.9, "policy_kwargs": {"net_arch": [16], "n_critics": 3}}
    config = load_configuration(path, "Hopper-v5", TAU_KEYS, {"tau": 0.3, "agent.tau": 0.4})
    assert config.model["agent"]["tau"] == 0.4


def test_unknown_key_names_the_nearest(path: Path) -> None:
    with pytest.raises(ValueError, match=r"Unknown key 'learning_rat' in sac.yml.*Did you mean 'learning_rate'\?"):
        load_configuration(path, "Hopper-v5", KEYS, {"learning_rat": 1})


def test_unknown_key_of_the_model_block(path: Path) -> None:
    path.write_text("default: {model: {real_ration: 0.1}}")
    with pytest.raises(ValueError, match="the model block.*Did you mean 'real_ratio'"):
        load_configuration(path, "Hopper-v5", KEYS)


def test_model_key_at_the_top_is_sent_inside(path: Path) -> None:
    path.write_text("default: {real_ratio: 0.1}")
    with pytest.raises(ValueError, match="belongs inside the 'model' block"):
        load_configuration(path, "Hopper-v5", KEYS)


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--conf-file"):
        load_configuration(tmp_path / "none.yml", "Hopper-v5", KEYS)


def test_yaml_builds_plain_data_only() -> None:
    with pytest.raises(Exception, match="could not determine a constructor"):
        parse_yaml("!!python/object/apply:os.getcwd []")


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("a:1", 1),
        ("a:1e-3", 0.001),
        ("a:-2.5E+4", -25000.0),
        ("a:1.0e-3", 0.001),
        ("a:true", True),
        ("a:[64,64]", [64, 64]),
        ("a:auto", "auto"),
        ("a:null", None),
        ("a:e5", "e5"),
        ("a:__import__('os').getcwd()", "__import__('os').getcwd()"),
    ],
)
def test_assignments_keep_types_and_run_nothing(word: str, value: object) -> None:
    parsed = parse_assignments([word])["a"]
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("word", ["a", ":1", "a:[1"])
def test_bad_assignments_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"key:value|not YAML"):
        parse_assignments([word])


def test_merge_leaves_its_arguments_alone() -> None:
    base = {"a": {"b": 1}}
    assert merge(base, {"a": {"c": 2}}) == {"a": {"b": 1, "c": 2}}
    assert base == {"a": {"b": 1}}


def test_dotted_keys() -> None:
    assert nested({"fit.batch_size": 32, "fit.max_epochs": 3, "tau": 0.1}) == {
        "model": {"fit": {"batch_size": 32, "max_epochs": 3}},
        "tau": 0.1,
    }


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_shipped_files_fit_their_agents(algo: str) -> None:
    path = HYPERPARAMS_FOLDER / f"{algo}.yml"
    keys = agent_keys(agent_class(algo, "sb3"))
    for env_id in parse_yaml(path.read_text()):
        config = load_configuration(path, env_id, keys)
        assert config.run["n_timesteps"] > 0
        assert algo not in ON_POLICY or "gradient_steps" not in config.agent


def test_an_agent_that_passes_arguments_on_takes_those_of_its_parents() -> None:
    keys = agent_keys(agent_class("svg", "sb3"))
    assert {"horizon", "max_grad_norm", "learning_starts", "target_entropy"} <= set(keys)
    assert not {"policy", "env", "kwargs", "self"} & set(keys)
    assert "learning_starts" in agent_keys(agent_class("sac", "sb3"))
    assert "horizon" not in agent_keys(agent_class("sac", "sb3"))
