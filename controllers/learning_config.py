"""How long a run of PETS is, and how often the model is fitted in it."""

from __future__ import annotations

from dataclasses import dataclass

from mbrl_wrappers.checks import at_least


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
