"""The picture of a learned termination: its numbers by hand, and a file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from mbrl_wrappers import EnsembleDynamics

pytest.importorskip("matplotlib")

from scripts.pictures.open_loop import Episode
from scripts.pictures.termination_picture import plot_termination, termination_scores


def model_of_logits() -> EnsembleDynamics:
    """Two members, both elites, whose logits are 4 silu(x) and 2 silu(x) of the observation x."""
    model = EnsembleDynamics(
        spaces.Box(-np.inf, np.inf, (1,), np.float32),
        spaces.Box(-1, 1, (1,), np.float32),
        num_members=2,
        num_elites=2,
        hidden=(1,),
        reward_fn=lambda obs, action, next_obs: obs[:, 0],
        device="cpu",
    )
    with th.no_grad():
        first, last = model.net.linear_layers()
        first.weight.zero_()
        last.weight.zero_()
        first.weight[:, 0, 0] = 1.0
        last.weight[:, 2, 0] = th.tensor([4.0, 2.0])
    return model


def episode(obs: list[float], *, terminated: bool) -> Episode:
    steps = len(obs) - 1
    return Episode(th.tensor(obs)[:, None], th.zeros(steps, 1), th.zeros(steps), terminated)


def test_precision_and_recall_at_every_threshold(tmp_path: Path) -> None:
    # x = 3, 0, 3 before the steps; the last steps of both episodes end them, only the first by termination.
    episodes = [episode([0.0, 3.0, 9.0], terminated=True), episode([3.0, 9.0], terminated=False)]
    scores = termination_scores(model_of_logits(), episodes)
    at = {round(float(t), 3): index for index, t in enumerate(scores.threshold)}
    assert (scores.events, scores.base_rate, scores.model_threshold) == (1, pytest.approx(1 / 3), 0.5)
    # Above 0.6 both elites fire on both rows with x = 3 (probabilities above 0.99), one of which terminates.
    assert (float(scores.precision[at[0.6]]), float(scores.recall[at[0.6]])) == (0.5, 1.0)
    # Below 0.5 they fire on the row with x = 0, too.
    assert float(scores.precision[at[0.4]]) == pytest.approx(1 / 3)
    plot_termination(scores, tmp_path / "termination.png", "a task")
    assert (tmp_path / "termination.png").read_bytes().startswith(b"\x89PNG")
    quiet = termination_scores(model_of_logits(), [episode([-9.0, -9.0], terminated=False)])
    assert math.isnan(float(quiet.precision[at[0.6]]))
    assert math.isnan(float(quiet.recall[at[0.6]]))
