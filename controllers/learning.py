"""Model-based learning with a planner (PETS): collect data with the planner, refit the model, repeat."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import gymnasium
import numpy as np

from controllers.learning_config import PlannerLearningConfig
from controllers.learning_reports import OnStep, OnTrial, PlannerLearningResult, StepReport, TrialReport
from controllers.learning_state import (
    TrialUnderWay,
    load_part_state,
    part_state,
    trial_from_state,
    trial_state,
)
from controllers.mpc import MPCPolicy
from mbrl_wrappers.copies.env_state import env_state, load_env_state
from mbrl_wrappers.fitting import FitReport, ModelTrainer
from mbrl_wrappers.replay import TransitionStore
from mbrl_wrappers.seeding import global_streams_state, seed_at, set_global_streams_state, spawn_seeds
from mbrl_wrappers.states import StateDict, require_keys

GymEnv = gymnasium.Env[Any, Any]

_PARTS = (
    *("seed", "trials", "real_steps", "fitted", "under_way"),
    *("model", "trainer", "store", "env", "streams"),
)


def learn_with_planner(
    env: GymEnv,
    policy: MPCPolicy[Any],
    trainer: ModelTrainer,
    store: TransitionStore,
    config: PlannerLearningConfig | None = None,
    *,
    seed: int = 0,
    checkpoints: SavesRuns | None = None,
    on_trial: OnTrial | None = None,
    on_step: OnStep | None = None,
) -> PlannerLearningResult:
    """Learn a model of ``env`` by planning in it (PETS, Chua et al. 2018, algorithm 1).

    Random trials come first, until there are ``initial_random_steps`` transitions. Then every trial executes the plans
    of ``policy`` and stores what really happened, and the model is refitted to all of it.

    All draws of a trial are seeded by ``(seed, trial)``. With ``checkpoints`` the run is saved while it goes on, and
    one that was killed goes on from the newest checkpoint when the same call is made again. It ends bit for bit as one
    that was not killed (on the CPU, with the same libraries).

    Args:
        env: the real environment.
        policy: the planner with the model to learn.
        trainer: fits that model.
        store: receives every real transition of one environment; rows that it brings count as random ones.
        config: how long and how often.
        seed: of the environment, the random actions and the plans.
        checkpoints: where the run is saved, and taken up again.
        on_trial: called after every trial.
        on_step: called after every real step; when it returns False the run is saved and ends there, without a report
            of the trial under way (its transitions are stored).

    Raises:
        ValueError: if model, trainer, store and environment do not match, if the environment or a plan diverges, and
            if the checkpoints are of another run, damaged or written to by another process.
        TypeError: for what is no Gymnasium environment; if there are checkpoints, and the state of the model or the
            trainer cannot be kept.
    """
    _check_parts(env, policy, trainer, store)
    learning = PlannerLearning(env, policy, trainer, store, config or PlannerLearningConfig(), seed=seed)
    learning.on_step, learning.on_trial = on_step, on_trial
    if checkpoints is None:
        return learning.run()
    with checkpoints.resumed(learning):
        return learning.run()


class SavesRuns(Protocol):
    """What keeps a run while it goes on, such as :class:`~controllers.PlannerCheckpoints`."""

    def resumed(self, learning: PlannerLearning) -> AbstractContextManager[None]:
        """Take ``learning`` to where it was saved, and save it inside the ``with`` block."""
        ...


class _Stopped(Exception):
    """``on_step`` returned False."""


class PlannerLearning:
    """One run under way: its parts, the trials so far and the real steps so far.

    Args:
        env: the real environment.
        policy: the planner with the model to learn.
        trainer: fits that model.
        store: receives every real transition.
        config: how long and how often.
        seed: of the environment, the random actions and the plans.

    Attributes:
        trials: reports of the trials that are over.
        real_steps: real steps so far.
        under_way: the trial between two of its steps; None between two trials.
        save: called where the run can be saved, with True where it should be; None saves nothing.
    """

    def __init__(
        self,
        env: GymEnv,
        policy: MPCPolicy[Any],
        trainer: ModelTrainer,
        store: TransitionStore,
        config: PlannerLearningConfig,
        *,
        seed: int,
    ) -> None:
        self.env, self.policy, self.trainer, self.store = env, policy, trainer, store
        self.config, self.seed = config, seed
        self.on_step: OnStep | None = None
        self.on_trial: OnTrial | None = None
        self.save: Callable[[bool], None] | None = None
        self.trials: list[TrialReport] = []
        self.real_steps = 0
        self.fitted = False
        self.under_way: TrialUnderWay | None = None

    def run(self) -> PlannerLearningResult:
        """Trial after trial, until the limits are reached or ``on_step`` stops it."""
        try:
            while self.under_way is not None or self._goes_on():
                if self.under_way is None:
                    if not self._is_random() and not self.fitted:
                        self._fit()  # the store came with enough rows, so there were no random trials
                    self.under_way = self._begin()
                self._continue(self.under_way)
                report = self._finish(self.under_way)
                self.under_way = None
                self.trials.append(report)
                if self.on_trial is not None:
                    self.on_trial(report)
                self._save(due=True)
        except _Stopped:
            return PlannerLearningResult(tuple(self.trials), stopped=True)
        return PlannerLearningResult(tuple(self.trials), stopped=False)

    def state_dict(self) -> StateDict:
        """Everything that the run goes on from, the environment's state included where it can be exported.

        Raises:
            TypeError: if the state of the model or the trainer cannot be kept.
        """
        under_way = None if self.under_way is None else self.under_way.state_dict()
        return {
            "seed": self.seed,
            "trials": [trial_state(trial) for trial in self.trials],
            "real_steps": self.real_steps,
            "fitted": self.fitted,
            "under_way": under_way,
            "model": part_state(self.policy.model),
            "trainer": part_state(self.trainer),
            "store": self.store.state_dict(),
            "env": env_state(self.env),
            "streams": global_streams_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``, in parts that were built as at the start of the run.

        A trial whose environment cannot be put where it was has ended; the next one begins.

        Raises:
            ValueError: if it is the state of another run.
        """
        require_keys(state, _PARTS, "a run of learn_with_planner")
        if state["seed"] != self.seed:
            raise ValueError(f"The run was started with the seed {state['seed']}, not {self.seed}: give it that one.")
        trials = [trial_from_state(trial) for trial in state["trials"]]
        under_way = None
        if state["under_way"] is not None:
            under_way = TrialUnderWay.from_state_dict(state["under_way"], self.policy)
        self.store.load_state_dict(state["store"])
        load_part_state(self.policy.model, state["model"])
        load_part_state(self.trainer, state["trainer"])
        if state["env"] is not None:
            load_env_state(self.env, state["env"])
        self.trials, self.real_steps, self.fitted = trials, int(state["real_steps"]), bool(state["fitted"])
        self.under_way = under_way
        if under_way is not None and (state["env"] is None or not under_way.complete):
            warnings.warn(
                f"The run was saved in trial {under_way.trial}, and the state of its environment or its planner could "
                "not be kept: that trial counts as cut there, its transitions are in the store, and the next one "
                "begins.",
                stacklevel=2,
            )
            self.trials.append(under_way.report(self.real_steps))
            self.under_way = None
        set_global_streams_state(state["streams"])

    def _goes_on(self) -> bool:
        total, trials = self.config.total_steps, self.config.trials
        planned = sum(not trial.random for trial in self.trials)
        return (total is None or self.real_steps < total) and (trials is None or planned < trials)

    def _is_random(self) -> bool:
        return len(self.store) < min(self.config.initial_random_steps, self.store.capacity)

    def _limit(self, trial: TrialUnderWay) -> int:
        """The most steps that the trial may take."""
        limits = [self.config.trial_steps]
        if self.config.total_steps is not None:
            limits.append(self.config.total_steps - self.real_steps + trial.length)
        if trial.random:
            limits.append(self.config.initial_random_steps - len(self.store) + trial.length)
        return min(limits)

    def _seeds(self, trial: int) -> list[int]:
        """Of the environment, of random actions and of the plans in a trial."""
        return spawn_seeds(seed_at(self.seed, trial), 3)

    def _begin(self) -> TrialUnderWay:
        number = len(self.trials)
        env_seed, action_seed, _ = self._seeds(number)
        self.env.action_space.seed(action_seed % 2**31)
        obs, _ = self.env.reset(seed=env_seed % 2**31)
        return TrialUnderWay(number, self._is_random(), np.array(obs))  # some environments reuse the array

    def _continue(self, now: TrialUnderWay) -> None:
        """The rest of the episode, and the fits that are due in it."""
        policy = copy.copy(self.policy)  # the caller's keeps its seed
        policy.seed = self._seeds(now.trial)[2]
        limit = self._limit(now)
        while not now.over:
            before = policy.last_plan
            if now.random:
                action = self.env.action_space.sample()
            else:
                action, now.planner = policy.predict(now.obs, now.planner, np.array([now.length == 0]))
            plan = None if policy.last_plan is before or policy.last_plan is None else policy.last_plan.report
            now.plans += [] if plan is None else [plan]
            executed = copy.deepcopy(action)  # some environments change the action that they are given, in place
            next_obs, reward, ended, truncated, _ = _five(self.env.step(executed))
            now.length, now.terminated = now.length + 1, bool(ended)
            now.over = now.terminated or bool(truncated) or now.length >= limit
            self.store.add(now.obs, action, reward, next_obs, now.terminated, now.over and not now.terminated)
            now.total, now.obs = now.total + float(reward), np.array(next_obs)
            self.real_steps += 1
            if self._fit_is_due(now.random):
                now.fit = self._fit()
            step = StepReport(now.trial, now.random, now.length, now.total, self.real_steps, plan)
            stopped = self.on_step is not None and self.on_step(step) is False
            self._save(due=stopped)
            if stopped:
                raise _Stopped

    def _finish(self, now: TrialUnderWay) -> TrialReport:
        """The report of a trial that is over, and the fit that is due after it."""
        first = now.random and not self._is_random()
        if first or (not now.random and self.config.train_freq is None):
            now.fit = self._fit()
        return now.report(self.real_steps)

    def _save(self, *, due: bool) -> None:
        if self.save is not None:
            self.save(due)

    def _fit_is_due(self, random: bool) -> bool:
        every = self.config.train_freq
        return not random and every is not None and self.real_steps % every == 0

    def _fit(self) -> FitReport:
        self.fitted = True
        return self.trainer.fit(
            self.store.transitions(),
            max_gradient_steps=self.config.max_gradient_steps,
            row_ids=self.store.row_ids(),
        )


def _five(answer: Any) -> Any:
    """What a step returned.

    Raises:
        ValueError: if it is not what Gymnasium's environments return.
    """
    if not isinstance(answer, tuple) or len(answer) != 5:
        count = len(answer) if isinstance(answer, tuple) else type(answer).__name__
        raise ValueError(
            f"step() must return (obs, reward, terminated, truncated, info), got {count} of them: wrap an environment "
            "of the old gym with shimmy.GymV21CompatibilityV0 or GymV26CompatibilityV0."
        )
    return answer


def _check_parts(env: GymEnv, policy: MPCPolicy[Any], trainer: ModelTrainer, store: TransitionStore) -> None:
    """Raise a ``ValueError`` unless environment, policy, trainer and store match."""
    if not isinstance(env, gymnasium.Env):
        raise TypeError(
            f"env must be a gymnasium.Env, got a {type(env).__module__}.{type(env).__name__}: wrap an environment of "
            "the old gym with shimmy, and give one environment and no vector of them."
        )
    if trainer.model is not policy.model:
        raise ValueError("The trainer fits another model than the policy plans in: build it as Trainer(policy.model).")
    for what, model, real in (
        ("observation", policy.observation_space, env.observation_space),
        ("action", policy.action_space, env.action_space),
    ):
        if model != real:
            raise ValueError(f"The model's {what} space {model} is not the environment's {real}.")
    if (store.observation_space, store.codec.action_space) != (env.observation_space, env.action_space):
        raise ValueError("The store was made for other spaces than the environment's.")
    if store.num_envs != 1:
        raise ValueError(f"The store is for {store.num_envs} environments, and one is collected from: leave it at 1.")
