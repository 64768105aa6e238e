"""A run of PETS that is killed anywhere goes on from its newest checkpoint and ends as if it had not been."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th

from controllers import (
    CEM,
    ICEM,
    MCTS,
    MPCPolicy,
    MPCState,
    PlannerCheckpoints,
    PlannerLearningConfig,
    PlannerLearningResult,
    StepReport,
    TrialReport,
    learn_with_planner,
)
from mbrl_wrappers import EnsembleDynamics, FitConfig, Trainer, TransitionStore
from mbrl_wrappers.comparable import comparable
from mbrl_wrappers.storage.run_checkpoint import RunCheckpoints
from mbrl_wrappers.storage.state_file import read_state, write_state
from mbrl_wrappers.tasks import never_terminates
from tests.controllers.test_learning import CountingTrainer
from tests.oracle import OracleEnv, oracle_model
from tests.ordered import by_key

CEM_SMALL = CEM(population=12, iterations=2, elite_ratio=0.25)
ICEM_SMALL = ICEM(population=12, iterations=2, num_elites=3)


class Killed(BaseException):
    """What a kill looks like to the code that it hits."""


class Noisy(OracleEnv):
    """The oracle with a stream of its own that moves the start of every step."""

    def step(self, action: Any) -> Any:
        obs, reward, _, _, info = super().step(action)
        return (obs, float(reward) + 0.1 * float(self.np_random.random()), False, False, info)


class Unreadable(Noisy):
    """An environment whose state cannot be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.handle = (number for number in range(3))


class Parts:
    """One run, built as at its start."""

    def __init__(self, planner: Any = CEM_SMALL, env: type[gymnasium.Env] = Noisy) -> None:
        self.env: Any = env()
        self.model = EnsembleDynamics(
            self.env.observation_space, self.env.action_space, num_members=2, num_elites=2, hidden=(8,), seed=1,
            propagation="tsinf", termination_fn=never_terminates, device="cpu",
        )  # fmt: skip
        self.policy = MPCPolicy(self.model, planner, horizon=4, execute=2, particles=2)
        self.trainer = Trainer(self.model, FitConfig(max_gradient_steps=5, batch_size=16), seed=3)
        self.store = TransitionStore(1000, self.env.observation_space, self.env.action_space)

    def learn(self, config: PlannerLearningConfig, folder: Path | None = None, **more: Any) -> PlannerLearningResult:
        every = more.pop("every", 4)
        checkpoints = None if folder is None else PlannerCheckpoints(folder, every=every)
        return learn_with_planner(
            self.env, self.policy, self.trainer, self.store, config, seed=5, checkpoints=checkpoints, **more
        )

    def everything(self) -> Any:
        """Weights, moments, streams and rows."""
        state = [dict(self.model.state_dict()), self.trainer.state_dict(), self.store.transitions()]
        return comparable(by_key([state, self.store.row_ids(), self.env.np_random.bit_generator.state]))


def essence(trial: TrialReport) -> TrialReport:
    """A report without the clock."""
    fit = None if trial.fit is None else replace(trial.fit, seconds=0.0)
    return replace(trial, fit=fit, plan_milliseconds=None)


def outcome(result: PlannerLearningResult) -> Any:
    return [essence(trial) for trial in result.trials]


BETWEEN = PlannerLearningConfig(trials=3, trial_steps=8, initial_random_steps=10)
INSIDE = PlannerLearningConfig(total_steps=34, trials=None, trial_steps=8, initial_random_steps=10, train_freq=5)


@pytest.mark.parametrize(("config", "planner"), [(BETWEEN, CEM_SMALL), (INSIDE, ICEM_SMALL)], ids=["trials", "freq"])
@pytest.mark.parametrize("killed_at", [2, 11, 26])
def test_a_run_that_is_killed_ends_as_if_it_had_not_been(
    config: PlannerLearningConfig, planner: Any, killed_at: int, tmp_path: Path
) -> None:
    whole = Parts(planner)
    wanted = whole.learn(config)

    def kill(step: StepReport) -> None:
        if step.real_steps == killed_at:
            raise Killed

    with pytest.raises(Killed):
        Parts(planner).learn(config, tmp_path / "run", on_step=kill)
    saved = RunCheckpoints(tmp_path / "run").steps()
    assert killed_at - max(saved, default=0) <= 4  # no more than the interval is lost
    again = Parts(planner)
    result = again.learn(config, tmp_path / "run")
    assert outcome(result) == outcome(wanted)
    assert again.everything() == whole.everything()


@pytest.mark.parametrize("stopped_at", [10, 21])
def test_a_run_that_stops_is_saved_where_it_stopped(stopped_at: int, tmp_path: Path) -> None:
    whole = Parts()
    wanted = whole.learn(BETWEEN)
    part = Parts().learn(BETWEEN, tmp_path, every=1000, on_step=lambda step: step.real_steps < stopped_at)
    assert part.stopped
    assert RunCheckpoints(tmp_path).steps()[-1] == stopped_at
    again, steps = Parts(), []
    result = again.learn(BETWEEN, tmp_path, on_step=lambda step: steps.append(step.real_steps))
    assert steps == list(range(stopped_at + 1, 35))
    assert outcome(result) == outcome(wanted)
    assert again.everything() == whole.everything()


def test_a_finished_run_is_not_run_again_and_can_be_given_more_trials(tmp_path: Path) -> None:
    whole = Parts()
    wanted = whole.learn(replace(BETWEEN, trials=4))
    Parts().learn(BETWEEN, tmp_path)
    steps: list[StepReport] = []
    assert outcome(Parts().learn(BETWEEN, tmp_path, on_step=steps.append)) == outcome(wanted)[:-1]
    assert steps == []
    again = Parts()
    assert outcome(again.learn(replace(BETWEEN, trials=4), tmp_path)) == outcome(wanted)
    assert again.everything() == whole.everything()


def test_an_environment_that_cannot_be_kept_begins_a_new_trial_and_loses_no_transition(tmp_path: Path) -> None:
    def kill(step: StepReport) -> None:
        if step.real_steps == 23:  # in the second trial of the planner, which began after step 18
            raise Killed

    with pytest.warns(UserWarning, match="begins a new one.*handle"), pytest.raises(Killed):
        Parts(env=Unreadable).learn(BETWEEN, tmp_path, every=3, on_step=kill)  # saved at step 21
    again = Parts(env=Unreadable)
    with pytest.warns(UserWarning, match="begins a new one"), pytest.warns(UserWarning, match="counts as cut there"):
        result = again.learn(BETWEEN, tmp_path)
    assert [(trial.trial, trial.length) for trial in result.trials] == [(0, 8), (1, 2), (2, 8), (3, 3), (4, 8)]
    assert len(again.store) == 29
    assert again.store.transitions().last.nonzero().flatten().tolist() == [7, 9, 17, 20, 28]


def test_between_two_trials_nothing_of_the_environment_is_needed(tmp_path: Path) -> None:
    def kill(trial: TrialReport) -> None:
        if trial.trial == 3:
            raise Killed

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = Parts(env=Unreadable)
        wanted = whole.learn(BETWEEN)
        with pytest.raises(Killed):
            Parts(env=Unreadable).learn(BETWEEN, tmp_path, every=1000, on_trial=kill)
        again = Parts(env=Unreadable)
        assert outcome(again.learn(BETWEEN, tmp_path)) == outcome(wanted)
    assert again.everything() == whole.everything()


def test_what_belongs_to_the_run_beside_it_is_kept(tmp_path: Path) -> None:
    class Count:
        def __init__(self) -> None:
            self.trials = 0

        def state_dict(self) -> Any:
            return {"trials": self.trials}

        def load_state_dict(self, state: Any) -> None:
            self.trials = state["trials"]

    def learn(limit: int) -> Count:
        parts, count = Parts(), Count()

        def counted(trial: TrialReport) -> None:
            count.trials += 1

        checkpoints = PlannerCheckpoints(tmp_path, also={"count": count})
        config = replace(BETWEEN, trials=limit)
        learn_with_planner(
            parts.env, parts.policy, parts.trainer, parts.store, config, seed=5, checkpoints=checkpoints,
            on_trial=counted,
        )  # fmt: skip
        return count

    assert (learn(1).trials, learn(2).trials) == (3, 4)
    with pytest.raises(ValueError, match=r"saved with \['count'\] beside it"):
        Parts().learn(BETWEEN, tmp_path)


def test_checkpoints_of_another_run_are_refused(tmp_path: Path) -> None:
    Parts().learn(replace(BETWEEN, trials=1), tmp_path)
    parts = Parts()
    checkpoints = PlannerCheckpoints(tmp_path)
    with pytest.raises(ValueError, match="started with the seed 5, not 6"):
        learn_with_planner(
            parts.env, parts.policy, parts.trainer, parts.store, BETWEEN, seed=6, checkpoints=checkpoints
        )
    other = Parts()
    other.store = TransitionStore(500, other.env.observation_space, other.env.action_space)
    with pytest.raises(ValueError, match="keeps 1000 steps"):
        other.learn(BETWEEN, tmp_path)
    with checkpoints.checkpoints.lock(), pytest.raises(ValueError, match="in use"):
        Parts().learn(BETWEEN, tmp_path)
    env = OracleEnv()
    model = oracle_model(env)
    store = TransitionStore(10, env.observation_space, env.action_space)
    policy = MPCPolicy(model, CEM_SMALL, horizon=4)
    with pytest.raises(TypeError, match="cannot keep the FunctionModel"):
        learn_with_planner(
            env, policy, CountingTrainer(model), store, BETWEEN, checkpoints=PlannerCheckpoints(tmp_path / "b")
        )


def test_the_state_of_a_policy_goes_through_a_file(tmp_path: Path) -> None:
    parts = Parts(ICEM_SMALL)
    obs, _ = parts.env.reset(seed=1)
    state: Any = None
    for _ in range(3):
        _, state = parts.policy.predict(obs, state)
    write_state(tmp_path / "state", state.state_dict())
    back = parts.policy.state_from(read_state(tmp_path / "state")[0])
    assert isinstance(back, MPCState)
    assert comparable(back.state_dict()) == comparable(state.state_dict())
    for _ in range(4):
        action, state = parts.policy.predict(obs, state)
        other, back = parts.policy.predict(obs, back)
        assert np.array_equal(action, other)
    shorter = MPCPolicy(parts.model, ICEM_SMALL, horizon=3)
    with pytest.raises(ValueError, match="plans 3 actions"):
        shorter.state_from(state.state_dict())
    with pytest.raises(ValueError, match="lacks"):
        parts.policy.state_from({"age": th.zeros(1)})


def test_a_search_tree_cannot_be_kept() -> None:
    env = gymnasium.make("CartPole-v1")
    model = EnsembleDynamics(
        env.observation_space, env.action_space, num_members=2, num_elites=2, hidden=(8,), seed=1, device="cpu"
    )
    obs, _ = env.reset(seed=0)
    _, state = MPCPolicy(model, MCTS(simulations=4), horizon=4).predict(obs)
    assert not state.can_be_kept
    with pytest.raises(TypeError, match="reuse=False"):
        state.state_dict()
