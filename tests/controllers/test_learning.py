"""Learning with a planner: the schedule, its reports, and going on after a stop."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th

from controllers import (
    CEM,
    MPCPolicy,
    PlannerLearningConfig,
    RandomShooting,
    StepReport,
    TrialReport,
    learn_with_planner,
)
from controllers.learning_reports import PlanSummary
from controllers.plan import PlanReport
from mbrl_wrappers import FitReport, Transitions, TransitionStore
from tests.oracle import OracleEnv, oracle_model

QUICK = CEM(population=12, iterations=2, elite_ratio=0.25)
NO_FIT = FitReport(
    epochs=1,
    gradient_steps=2,
    rows_seen=3,
    train_rows=4,
    holdout_rows=5,
    holdout_error=(0.5,),
    initial_error=(1.0,),
    dimensions=("obs0",),
    holdout_r2=(0.9,),
    coverage_50=(0.5,),
    coverage_90=(0.9,),
    log_variance_spread=(1.0,),
    log_variance_low=(-10.0,),
    log_variance_high=(0.5,),
    elites=(0,),
    diverged_members=(),
    termination_threshold=None,
    termination_precision=None,
    termination_recall=None,
    termination_base_rate=None,
    termination_events=None,
    seconds=0.0,
)


class EndlessOracle(OracleEnv):
    """The oracle without its failure, so that trials are as long as they may be."""

    def step(self, action: Any) -> Any:
        return (*super().step(action)[:2], False, False, {})


class CountingTrainer:
    """Fits nothing and remembers how many rows there were."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.rows: list[int] = []
        self.caps: list[int | None] = []
        self.ids: list[th.Tensor] = []

    def fit(
        self, transitions: Transitions, *, max_gradient_steps: int | None = None, row_ids: th.Tensor | None = None
    ) -> FitReport:
        assert row_ids is not None
        self.rows.append(transitions.num_rows)
        self.caps.append(max_gradient_steps)
        self.ids.append(row_ids)
        return replace(NO_FIT, rows_seen=transitions.num_rows)


def exact_parts(env: gymnasium.Env, planner: Any = QUICK) -> tuple[MPCPolicy, CountingTrainer, TransitionStore]:
    model = oracle_model(env)
    store = TransitionStore(1000, env.observation_space, env.action_space)
    return MPCPolicy(model, planner, horizon=4), CountingTrainer(model), store


def test_random_trials_come_first_and_a_fit_follows_every_later_one() -> None:
    env = EndlessOracle()
    policy, trainer, store = exact_parts(env)
    steps: list[StepReport] = []
    seen: list[TrialReport] = []
    config = PlannerLearningConfig(trials=2, trial_steps=10, initial_random_steps=25, max_gradient_steps=7)
    result = learn_with_planner(env, policy, trainer, store, config, on_trial=seen.append, on_step=steps.append)
    assert [(trial.random, trial.length, trial.real_steps) for trial in result.trials] == [
        (True, 10, 10), (True, 10, 20), (True, 5, 25), (False, 10, 35), (False, 10, 45),
    ]  # fmt: skip
    assert trainer.rows == [25, 35, 45]
    assert trainer.caps == [7, 7, 7]
    assert th.equal(trainer.ids[-1], th.arange(45))
    assert [trial.fit is not None for trial in result.trials] == [False, False, True, True, True]
    assert (result.trials, result.stopped) == (tuple(seen), False)
    assert [trial.trial for trial in seen] == [0, 1, 2, 3, 4]
    assert len(steps) == len(store) == 45
    rows = store.transitions()
    assert rows.last.nonzero().squeeze(1).tolist() == [9, 19, 24, 34, 44]  # cut, and not terminated
    assert not rows.terminated.any()
    for trial in seen:
        mine = [step for step in steps if step.trial == trial.trial]
        assert mine[-1].real_return == trial.real_return
        assert [step.length for step in mine] == list(range(1, trial.length + 1))
        plans = [step.plan for step in mine if step.plan is not None]
        assert len(plans) == trial.plans == (0 if trial.random else 10)
        assert trial.model_calls == sum(plan.model_calls for plan in plans)
        if plans:
            assert trial.best_value == pytest.approx(np.mean([float(plan.best_value) for plan in plans]))
            # The first plan of an episode has nothing to start from, and does not spoil the mean.
            warm = [float(plan.warm_start_value) for plan in plans[1:]]
            assert np.isnan(float(plans[0].warm_start_value))
            assert trial.warm_start_value == pytest.approx(np.mean(warm))
            assert trial.plan_milliseconds == pytest.approx(1000 * np.median([plan.seconds for plan in plans]))
        else:
            assert trial.best_value is trial.mean_value is trial.plan_milliseconds is None


def test_fits_every_n_steps_and_a_limit_of_steps() -> None:
    env = EndlessOracle()
    policy, trainer, store = exact_parts(env)
    config = PlannerLearningConfig(total_steps=31, trials=None, trial_steps=8, initial_random_steps=10, train_freq=5)
    result = learn_with_planner(env, policy, trainer, store, config)
    assert [trial.length for trial in result.trials] == [8, 2, 8, 8, 5]
    assert trainer.rows == [10, 15, 20, 25, 30]


def test_a_failure_ends_a_trial_and_is_stored_as_one() -> None:
    env = OracleEnv()
    policy, trainer, store = exact_parts(env, RandomShooting(population=4))
    config = PlannerLearningConfig(trials=1, trial_steps=200, initial_random_steps=100)
    result = learn_with_planner(env, policy, trainer, store, config)
    ended = [trial for trial in result.trials if trial.terminated]
    assert ended
    assert int(store.transitions().terminated.sum()) == len(ended)
    assert all(trial.length < 200 for trial in ended)


def test_planning_in_the_true_model_beats_chance() -> None:
    env = EndlessOracle()
    policy, trainer, store = exact_parts(env, CEM(population=50, iterations=3))
    config = PlannerLearningConfig(trials=2, trial_steps=20, initial_random_steps=40)
    trials = learn_with_planner(env, policy, trainer, store, config).trials
    worst_planned = min(trial.real_return for trial in trials if not trial.random)
    assert worst_planned > max(trial.real_return for trial in trials if trial.random)


def test_a_filled_store_needs_no_random_trial_but_a_fit() -> None:
    env = EndlessOracle()
    policy, trainer, store = exact_parts(env)
    config = PlannerLearningConfig(trials=1, trial_steps=6, initial_random_steps=10)
    first = learn_with_planner(env, policy, trainer, store, config)
    again = CountingTrainer(policy.model)
    second = learn_with_planner(env, policy, again, store, config, seed=1)
    assert [trial.random for trial in first.trials] == [True, True, False]
    assert [(trial.random, trial.real_steps) for trial in second.trials] == [(False, 6)]
    assert again.rows == [16, 22]


def test_the_seed_decides_everything_and_nothing_of_the_callers_is_changed() -> None:
    def run(seed: int) -> tuple[list[float], MPCPolicy]:
        env = EndlessOracle()
        policy, trainer, store = exact_parts(env)
        config = PlannerLearningConfig(trials=2, trial_steps=6, initial_random_steps=6)
        before = (th.get_rng_state(), np.random.get_state()[1].copy())  # noqa: NPY002
        result = learn_with_planner(env, policy, trainer, store, config, seed=seed)
        assert th.equal(before[0], th.get_rng_state())
        assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
        return [trial.real_return for trial in result.trials], policy

    one, policy = run(0)
    assert one == run(0)[0]
    assert set(one).isdisjoint(run(1)[0])
    assert (policy.seed, policy.last_plan) == (0, None)


class ReusesItsArrays(EndlessOracle):
    """Writes every observation into one array, and changes the action that it is given, in place."""

    def reset(self, **options: Any) -> Any:
        obs, info = super().reset(**options)
        self.array = np.array(obs)
        return self.array, info

    def step(self, action: Any) -> Any:
        obs, *rest = super().step(np.array(action))
        self.array[:] = obs
        if isinstance(action, np.ndarray):
            action[...] = self.action_space.high
        return (self.array, *rest)


@pytest.mark.parametrize("initial", [7, 4])  # random trials alone, and trials with the planner
def test_what_an_environment_does_to_its_arrays_changes_no_stored_row(initial: int) -> None:
    def stored(env: gymnasium.Env) -> Transitions:
        policy, trainer, store = exact_parts(env)
        config = PlannerLearningConfig(trials=1, trial_steps=3, initial_random_steps=initial)
        learn_with_planner(env, policy, trainer, store, config, seed=4)
        return store.transitions()

    clean, reused = stored(EndlessOracle()), stored(ReusesItsArrays())
    assert clean.num_rows == initial + 3
    for name, wanted, got in zip(clean._fields, clean, reused, strict=True):
        assert got.equal(wanted), name
    assert not reused.obs.equal(reused.next_obs)


def test_a_report_summarises_the_plans_of_its_trial() -> None:
    def report(value: float, seconds: float) -> PlanReport:
        one = th.tensor([value])
        return PlanReport(one - 1, one, one - 2, one, 0, 10, seconds, 0.0)

    nan = th.tensor([math.nan])
    summary = PlanSummary.of([report(5.0, 0.1), report(7.0, 0.3), report(3.0, 0.2)._replace(warm_start_value=nan)])
    assert summary == PlanSummary(3, pytest.approx(200), 30, 5.0, 5.0, 3.0)  # type: ignore[arg-type]
    assert PlanSummary.of([]) == PlanSummary(0, None, 0, None, None, None)


def test_parts_that_do_not_belong_together_are_refused() -> None:
    env = EndlessOracle()
    policy, trainer, store = exact_parts(env)
    with pytest.raises(ValueError, match="another model"):
        learn_with_planner(env, policy, CountingTrainer(oracle_model(env)), store)
    with pytest.raises(ValueError, match="observation space"):
        learn_with_planner(EndlessOracle(np.float64), policy, trainer, store)
    with pytest.raises(ValueError, match="action space"):
        learn_with_planner(gymnasium.wrappers.RescaleAction(env, np.float32(-1), np.float32(1)), policy, trainer, store)
    other = TransitionStore(10, gymnasium.spaces.Box(-1, 1, (3,)), env.action_space)
    with pytest.raises(ValueError, match="store was made for other spaces"):
        learn_with_planner(env, policy, trainer, other)
    two = TransitionStore(10, env.observation_space, env.action_space, num_envs=2)
    with pytest.raises(ValueError, match="2 environments"):
        learn_with_planner(env, policy, trainer, two)


@pytest.mark.parametrize(
    "wrong",
    [{"trials": 0}, {"total_steps": 0}, {"trial_steps": 0}, {"initial_random_steps": 0}, {"train_freq": 0},
     {"max_gradient_steps": 0}, {"trials": None}],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"|".join([*wrong, "when to stop"])):
        PlannerLearningConfig(**wrong)


def test_environment_random_actions_and_plans_each_follow_the_seed_and_the_trial() -> None:
    class Watched(MPCPolicy):
        def predict(self, *args: Any, **kwargs: Any) -> Any:
            plans.append(self.seed)
            return super().predict(*args, **kwargs)

    class Env(EndlessOracle):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            starts.append(seed)
            return super().reset(seed=seed, options=options)

        def step(self, action: Any) -> Any:
            actions.append(tuple(action))
            return super().step(action)

    drawn = []
    for seed in (0, 0, 1):
        starts: list[int | None] = []
        actions: list[tuple[float, ...]] = []
        plans: list[int] = []
        env = Env()
        _, _, store = exact_parts(env)
        policy = Watched(oracle_model(env), QUICK, horizon=4)
        config = PlannerLearningConfig(trials=2, trial_steps=1, initial_random_steps=2)
        learn_with_planner(env, policy, CountingTrainer(policy.model), store, config, seed=seed)
        drawn.append((starts, actions[:2], plans))
    assert drawn[0] == drawn[1]
    assert [len(part) for part in drawn[0]] == [4, 2, 2]
    for zero, one in zip(drawn[0], drawn[2], strict=True):
        assert len({*zero, *one}) == 2 * len(zero)


def test_a_store_that_is_full_ends_the_random_trials() -> None:
    env = EndlessOracle()
    policy, trainer, _ = exact_parts(env)
    store = TransitionStore(6, env.observation_space, env.action_space)
    config = PlannerLearningConfig(trials=1, trial_steps=3, initial_random_steps=10, total_steps=15)
    result = learn_with_planner(env, policy, trainer, store, config)
    assert [(trial.random, trial.length) for trial in result.trials] == [(True, 3), (True, 3), (False, 3)]


class FourAnswers(EndlessOracle):
    """Answers a step as environments of the old gym did."""

    def step(self, action: Any) -> Any:
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, info


def test_environments_of_the_old_gym_are_refused_with_advice() -> None:
    env = FourAnswers()
    policy, trainer, store = exact_parts(env)
    with pytest.raises(ValueError, match=r"got 4 of them.*shimmy"):
        learn_with_planner(env, policy, trainer, store)
    assert len(store) == 0
    with pytest.raises(TypeError, match=r"must be a gymnasium\.Env.*shimmy"):
        learn_with_planner(object(), policy, trainer, store)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["obs", "reward"])
def test_an_environment_that_diverges_is_named_and_nothing_of_that_step_is_stored(kind: str) -> None:
    class Diverging(EndlessOracle):
        count = 0

        def step(self, action: Any) -> Any:
            obs, reward, *rest = super().step(action)
            self.count += 1
            if self.count == 4:
                obs, reward = (obs * np.nan, reward) if kind == "obs" else (obs, math.inf)
            return (obs, reward, *rest)

    env = Diverging()
    policy, trainer, store = exact_parts(env)
    name = "next_obs" if kind == "obs" else "reward"
    with pytest.raises(ValueError, match=f"Step 3 of environment 0: {name}"):
        learn_with_planner(env, policy, trainer, store)
    assert len(store) == 3
