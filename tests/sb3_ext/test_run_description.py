"""A checkpoint is compared with the run that is to go on from it."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env

from sb3_ext.agents import MVESAC
from sb3_ext.agents.value_expansion_config import ExpansionConfig
from sb3_ext.run_description import check_description, run_description


def agent(cls: type[SAC] = SAC, task: dict[str, Any] | None = None, **kwargs: Any) -> SAC:
    return cls("MlpPolicy", make_vec_env("Pendulum-v1", env_kwargs=task), buffer_size=10, device="cpu", **kwargs)


def saved(of: SAC) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(run_description(of), allow_nan=False))
    return found


def test_the_same_run_is_taken_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_description(agent(task={"g": 9.0}), saved(agent(task={"g": 9.0})))
        check_description(agent(task={"render_mode": None}), saved(agent(task={"render_mode": "rgb_array"})))


def test_another_task_of_the_same_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"its env_kwargs is \{'g': 9.0\}, and this one's \{'g': 5.0\}"):
        check_description(agent(task={"g": 5.0}), saved(agent(task={"g": 9.0})))


def test_settings_that_have_changed_are_named() -> None:
    with pytest.warns(UserWarning, match="gamma was 0.99 and is 0.5, learning_rate was 0.0003 and is 0.01"):
        check_description(agent(gamma=0.5, learning_rate=0.01), saved(agent()))
    short = ExpansionConfig(horizon=1)
    with pytest.warns(UserWarning, match="config was .*'horizon': 1.* and is .*'horizon': 2"):
        check_description(agent(MVESAC, config=replace(short, horizon=2)), saved(agent(MVESAC, config=short)))


def test_what_json_has_not_is_left_out() -> None:
    assert "learning_rate" not in saved(agent(learning_rate=lambda left: left * 1e-3))["settings"]
    assert "target_entropy" not in saved(agent(target_entropy=-math.inf))["settings"]
