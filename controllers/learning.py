"""Model-based learning with a planner (PETS): collect data with the planner, refit the model, repeat."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from controllers.learning_reports import OnStep, OnTrial, PlannerLearningResult, PlanSummary, StepReport, TrialReport
from controllers.mpc import MPCPolicy
from mbrl_wrappers.checks import at_least
from mbrl_wrappers.fitting import FitReport, ModelTrainer
from mbrl_wrappers.replay import TransitionStore
from mbrl_wrappers.seeding import seed_at, spawn_seeds

GymEnv = gymnasium.Env[Any, Any]


@dataclass(frozen=True)
class PlannerLearningConfig:
    """Length of a training run and frequency of model fits. Steps are steps of the real environment.

    Attributes:
        total_steps: real steps in all, random ones included; None for no limit.
        trials: trials with the planner, those of an earlier part of the run included; None for no limit.
        trial_steps: maximum length of a trial, which is one episode.
        initial_random_steps: real steps with uniformly random actions before the first fit.
        train_freq: real steps between fits; None fits after every trial.
        max_gradient_steps: limit of gradient steps per fit; None leaves the limit to the trainer.
    """

    total_steps: int | None = None
    trials: int | None = 10
    trial_steps: int = 1000
    initial_random_steps: int = 200
    train_freq: int | None = None
    max_gradient_steps: int | None = None

    def __post_init__(self) -> None:
        for name in ("trial_steps", "initial_random_steps"):
            at_least(name, getattr(self, name))
        for name in ("total_steps", "trials", "train_freq", "max_gradient_steps"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name))
        if self.total_steps is None and self.trials is None:
            raise ValueError("Say when to stop: give total_steps, trials or both.")


def learn_with_planner(
    env: GymEnv,
    policy: MPCPolicy[Any],
    trainer: ModelTrainer,
    store: TransitionStore,
    config: PlannerLearningConfig | None = None,
    *,
    seed: int = 0,
    earlier: Sequence[TrialReport] = (),
    on_trial: OnTrial | None = None,
    on_step: OnStep | None = None,
) -> PlannerLearningResult:
    """Learn a model of ``env`` by planning in it (PETS, Chua et al. 2018, algorithm 1).

    Random trials come first, until there are ``initial_random_steps`` transitions. Then every trial executes the plans
    of ``policy`` and stores what really happened, and the model is refitted to all of it.

    All draws of a trial are seeded by ``(seed, trial)``, so a run saved between two trials can be resumed with the same
    result: pass the saved model (in ``policy`` and ``trainer``), the saved store and the reports so far as ``earlier``.
    Trainer state that persists between fits (optimiser moments, random stream) is the exception: it is not saved.
    :func:`~controllers.save_progress` and :func:`~controllers.load_progress` do the saving.

    Args:
        env: the real environment.
        policy: the planner with the model to learn.
        trainer: fits that model.
        store: receives every real transition of one environment; rows that it brings count as random ones.
        config: how long and how often.
        seed: of the environment, the random actions and the plans.
        earlier: the reports of the trials of this run that are over.
        on_trial: called after every trial.
        on_step: called after every real step; when it returns False the run ends there, without a report of the trial
            under way (its transitions are stored).

    Raises:
        ValueError: if model, trainer, store and environment do not match, and if the environment or a plan
            diverges.
    """
    config = config or PlannerLearningConfig()
    _check_parts(env, policy, trainer, store)
    return _Learning(env, policy, trainer, store, config, seed=seed, earlier=earlier, on_step=on_step).run(on_trial)


class _Stopped(Exception):
    """``on_step`` returned False."""


class _Learning:
    """One run: its parts, the trials so far and the real steps so far."""

    def __init__(
        self,
        env: GymEnv,
        policy: MPCPolicy[Any],
        trainer: ModelTrainer,
        store: TransitionStore,
        config: PlannerLearningConfig,
        *,
        seed: int,
        earlier: Sequence[TrialReport],
        on_step: OnStep | None,
    ) -> None:
        self.env, self.policy, self.trainer, self.store = env, policy, trainer, store
        self.config, self.seed, self.on_step = config, seed, on_step
        self.trials = list(earlier)
        self.real_steps = sum(trial.length for trial in earlier)
        self.fitted = any(trial.fit is not None for trial in earlier)

    def run(self, on_trial: OnTrial | None) -> PlannerLearningResult:
        """Trial after trial, until the limits are reached or ``on_step`` stops it."""
        try:
            while self._goes_on():
                if not self._is_random() and not self.fitted:
                    self._fit()  # the store came with enough rows, so there were no random trials
                report = self._trial()
                self.trials.append(report)
                if on_trial is not None:
                    on_trial(report)
        except _Stopped:
            return PlannerLearningResult(tuple(self.trials), stopped=True)
        return PlannerLearningResult(tuple(self.trials), stopped=False)

    def _goes_on(self) -> bool:
        total, trials = self.config.total_steps, self.config.trials
        planned = sum(not trial.random for trial in self.trials)
        return (total is None or self.real_steps < total) and (trials is None or planned < trials)

    def _is_random(self) -> bool:
        return len(self.store) < min(self.config.initial_random_steps, self.store.capacity)

    def _limit(self, random: bool) -> int:
        """The most steps that the next trial may take."""
        limits = [self.config.trial_steps]
        if self.config.total_steps is not None:
            limits.append(self.config.total_steps - self.real_steps)
        if random:
            limits.append(self.config.initial_random_steps - len(self.store))
        return min(limits)

    def _trial(self) -> TrialReport:
        """One episode, and the fits that are due in it and after it."""
        trial, random = len(self.trials), self._is_random()
        env_seed, action_seed, plan_seed = spawn_seeds(seed_at(self.seed, trial), 3)
        policy = copy.copy(self.policy)  # the caller's keeps its seed
        policy.seed = plan_seed
        self.env.action_space.seed(action_seed % 2**31)
        obs, _ = self.env.reset(seed=env_seed % 2**31)
        obs = np.array(obs)  # a copy: some environments write every observation into one array
        limit, state, plans = self._limit(random), None, []
        total, length, terminated, over = 0.0, 0, False, False
        fit: FitReport | None = None
        while not over:
            before = policy.last_plan
            if random:
                action = self.env.action_space.sample()
            else:
                action, state = policy.predict(obs, state, np.array([length == 0]))
            plan = None if policy.last_plan is before or policy.last_plan is None else policy.last_plan.report
            plans += [] if plan is None else [plan]
            executed = copy.deepcopy(action)  # some environments change the action that they are given, in place
            next_obs, reward, ended, truncated, _ = self.env.step(executed)
            length, total, terminated = length + 1, total + float(reward), bool(ended)
            over = terminated or bool(truncated) or length >= limit
            self.store.add(obs, action, reward, next_obs, terminated, over and not terminated)
            obs = np.array(next_obs)
            self.real_steps += 1
            if self._fit_is_due(random):
                fit = self._fit()
            step = StepReport(trial, random, length, total, self.real_steps, plan)
            if self.on_step is not None and self.on_step(step) is False:
                raise _Stopped
        first = random and not self._is_random()
        if first or (not random and self.config.train_freq is None):
            fit = self._fit()
        return TrialReport(
            trial=trial,
            random=random,
            real_return=total,
            length=length,
            terminated=terminated,
            real_steps=self.real_steps,
            fit=fit,
            **PlanSummary.of(plans)._asdict(),
        )

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


def _check_parts(env: GymEnv, policy: MPCPolicy[Any], trainer: ModelTrainer, store: TransitionStore) -> None:
    """Raise a ``ValueError`` unless environment, policy, trainer and store match."""
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
