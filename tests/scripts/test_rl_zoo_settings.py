"""The YAML file for RL Zoo, read as the Zoo reads it: some values are evaluated, callbacks are imported by name."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import yaml
from stable_baselines3 import SAC

from sb3_ext import DynaCallback, MixedReplayBuffer
from scripts.training.configuration import HYPERPARAMS_FOLDER

ENTRIES = yaml.safe_load((HYPERPARAMS_FOLDER / "rl_zoo" / "sac.yml").read_text())


def callbacks(named: list[dict[str, dict[str, Any]]]) -> list[Any]:
    made = []
    for entry in named:
        ((name, kwargs),) = entry.items()
        module, _, cls = name.rpartition(".")
        made.append(getattr(importlib.import_module(module), cls)(**kwargs))
    return made


@pytest.mark.parametrize("task", ENTRIES)
def test_an_entry_makes_an_agent_and_a_model(task: str) -> None:
    entry = dict(ENTRIES[task])
    assert isinstance(entry.pop("n_timesteps"), float)
    entry["replay_buffer_class"] = eval(entry["replay_buffer_class"], {})  # in a namespace that knows nothing of ours
    assert entry["replay_buffer_class"] is MixedReplayBuffer
    (dyna,) = callbacks(entry.pop("callback"))
    assert isinstance(dyna, DynaCallback)
    small = {"learning_starts": 20, "gradient_steps": 1, "batch_size": 16, "policy_kwargs": {"net_arch": [8]}}
    agent = SAC(env=task, buffer_size=1000, **{**entry, **small})
    assert isinstance(agent.replay_buffer, MixedReplayBuffer)
    dyna.init_callback(agent)
    assert dyna.dynamics is not None
    agent.learn(30)
    assert agent.replay_buffer.num_real == 30
