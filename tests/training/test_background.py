"""Fitting in a process beside: the same result as a trainer's, and what happens when the process dies."""

from __future__ import annotations

import copy
import os
import signal
import time
from collections.abc import Iterator

import pytest
import torch as th

from mbrl_wrappers import EnsembleDynamics, FitConfig, FunctionModel, Trainer, Transitions
from mbrl_wrappers.training import BackgroundTrainer
from tests.oracle import OracleEnv, oracle_reward, oracle_step

pytestmark = pytest.mark.timeout(300)  # a process has to import torch first
QUICK = FitConfig(max_epochs=3, batch_size=32)


def recorded(count: int = 200) -> Transitions:
    generator = th.Generator().manual_seed(0)
    obs = th.rand(count, 3, generator=generator) - 0.5
    action = th.rand(count, 2, generator=generator) * 2 - 1
    next_obs, reward, _ = oracle_step(obs, action)
    ends = th.zeros(count, dtype=th.bool)
    return Transitions(obs, action, reward, next_obs, ends, ends)


def small(seed: int = 0) -> EnsembleDynamics:
    """A small ensemble whose reward is a function that no other process knows."""
    env = OracleEnv()
    return EnsembleDynamics(
        env.observation_space,
        env.action_space,
        num_members=2,
        num_elites=1,
        hidden=(8,),
        reward_fn=lambda *columns: oracle_reward(*columns),
        termination_fn=lambda obs, action, next_obs: th.zeros(len(obs), dtype=th.bool),
        seed=seed,
        device="cpu",
    )


@pytest.fixture(scope="module")
def running() -> Iterator[BackgroundTrainer]:
    trainer = BackgroundTrainer(small(), QUICK, seed=5)
    yield trainer
    trainer.close()


@pytest.fixture
def background(running: BackgroundTrainer) -> BackgroundTrainer:
    """A trainer with the first weights; its process takes a second to start, so it is that of the test before."""
    running.model.load_state_dict(small().state_dict())
    running.replaced = 0
    return running


def same(first: EnsembleDynamics, second: EnsembleDynamics) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(th.equal(a, b) for a, b in pairs)


def test_two_fits_beside_equal_two_fits_in_place(background: BackgroundTrainer) -> None:
    background.close()  # a process of its own, with a new optimiser
    model = small()
    trainer = Trainer(model, QUICK, seed=5)
    for rows, cap in ((recorded(100), None), (recorded(200), 4)):
        ids = th.arange(rows.num_rows)
        expected = trainer.fit(rows, max_gradient_steps=cap, row_ids=ids)
        found = background.fit(rows, max_gradient_steps=cap, row_ids=ids)
        assert same(model, background.model)
        assert found.holdout_error == expected.holdout_error
        assert (found.gradient_steps, found.elites, found.dimensions) == (
            expected.gradient_steps,
            expected.elites,
            expected.dimensions,
        )


def test_the_model_changes_at_the_poll_and_not_before(background: BackgroundTrainer) -> None:
    before = copy.deepcopy(background.model)
    background.start(recorded())
    assert background.fitting
    with pytest.raises(RuntimeError, match="A fit is under way"):
        background.start(recorded())
    report, deadline = None, time.monotonic() + 100
    while report is None and time.monotonic() < deadline:
        assert same(before, background.model)
        time.sleep(0.05)
        report = background.poll()
    assert report is not None
    assert not same(before, background.model)
    assert not background.fitting
    with pytest.raises(RuntimeError, match="No fit is under way"):
        background.poll()


def test_a_killed_process_is_replaced_and_named(background: BackgroundTrainer) -> None:
    background.start(recorded())
    assert background._process is not None
    os.kill(background._process.pid, signal.SIGKILL)
    with pytest.warns(UserWarning, match="killed by signal 9; another one begins the fit anew"):
        report = background.join()
    assert background.replaced == 1
    model = small()
    expected = Trainer(model, QUICK, seed=5).fit(recorded())
    assert same(model, background.model)
    assert report.holdout_error == expected.holdout_error


def test_what_the_fit_raises_is_raised_here(background: BackgroundTrainer) -> None:
    rows = recorded()
    background.start(rows._replace(obs=rows.obs / 0))
    with pytest.raises(ValueError, match="Transition 0 has a non-finite obs"):
        background.join()
    assert background.fit(rows).train_rows > 0  # the process is there still
    assert background.replaced == 0


def test_what_cannot_work_is_refused() -> None:
    env = OracleEnv()
    function = FunctionModel(env.observation_space, env.action_space, oracle_step)
    with pytest.raises(TypeError, match="fits an EnsembleDynamics, got FunctionModel"):
        BackgroundTrainer(function)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threads must be"):
        BackgroundTrainer(small(), threads=0)
