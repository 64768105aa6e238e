"""A trainer goes on from its state: optimiser, bootstrap, batches and holdout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from mbrl_wrappers import EnsembleDynamics, FitConfig, Trainer, Transitions
from mbrl_wrappers.storage.state_file import read_state, write_state
from mbrl_wrappers.torch_states import load_module_state, module_state

BOX = spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACTION = spaces.Box(-1, 1, (1,), np.float32)


def built(seed: int, members: int = 3) -> Trainer:
    model = EnsembleDynamics(BOX, ACTION, num_members=members, num_elites=2, hidden=(8,), device="cpu", seed=seed)
    return Trainer(model, FitConfig(max_epochs=3, batch_size=16), seed=seed)


def rows(count: int) -> Transitions:
    draw = th.Generator().manual_seed(0)
    obs, action = th.randn(count, 2, generator=draw), th.rand(count, 1, generator=draw) * 2 - 1
    flags = th.zeros(count, dtype=th.bool)
    return Transitions(obs, action, obs[:, 0], obs + 0.1 * action, flags, flags)


@pytest.mark.filterwarnings("ignore:The learned termination")
def test_a_trainer_goes_on_from_a_file(tmp_path: Path) -> None:
    trainer = built(1)
    trainer.fit(rows(60))
    write_state(tmp_path / "s", {"trainer": trainer.state_dict(), "model": module_state(trainer.model)})
    expected = trainer.fit(rows(90))
    other = built(2)
    unrestored = built(2).fit(rows(90))
    state, _, _ = read_state(tmp_path / "s")
    load_module_state(other.model, state["model"])
    other.load_state_dict(state["trainer"])
    found = other.fit(rows(90))
    for name, value in trainer.model.state_dict().items():
        assert value.equal(other.model.state_dict()[name]), name
    assert found.holdout_error == expected.holdout_error != unrestored.holdout_error
    assert found.elites == expected.elites


@pytest.mark.filterwarnings("ignore:The learned termination")
def test_the_state_of_another_trainer_is_refused() -> None:
    trainer, other = built(1), built(1, members=2)
    for each in (trainer, other):
        each.fit(rows(60))
    before = trainer.state_dict()
    with pytest.raises(ValueError, match="exp_avg of parameter 0 in the state of the optimiser has shape"):
        trainer.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="no state of a Trainer: it lacks stream"):
        trainer.load_state_dict({name: value for name, value in before.items() if name != "stream"})
    assert trainer.state_dict()["stream"].equal(before["stream"])
