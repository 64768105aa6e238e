"""The trial under way and the reports of a run of PETS, as nested plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch as th

from controllers.learning_reports import PlanSummary, TrialReport
from controllers.mpc import MPCPolicy
from controllers.mpc_state import MPCState
from controllers.plan import PlanReport
from mbrl_wrappers.fitting import FitReport
from mbrl_wrappers.states import StateDict, require_keys
from mbrl_wrappers.torch_states import load_module_state, module_state

_FIELDS = ("trial", "random", "obs", "total", "length", "terminated", "over", "fit", "plans", "planner", "complete")
_FIGURES = ("warm_start_value", "best_value", "mean_value", "model_calls", "seconds")


@dataclass
class TrialUnderWay:
    """A trial between two of its steps.

    Attributes:
        trial: its number.
        random: whether its actions are random.
        obs: ``(O,)`` the newest observation.
        total: its rewards so far.
        length: its steps so far.
        terminated: whether its episode has terminated.
        over: whether no further step is taken.
        fit: report of the last fit in it.
        plans: reports of its plans.
        planner: what the next call of ``predict`` is given.
        complete: whether the trial can go on from this.
    """

    trial: int
    random: bool
    obs: Any
    total: float = 0.0
    length: int = 0
    terminated: bool = False
    over: bool = False
    fit: FitReport | None = None
    plans: list[PlanReport] = field(default_factory=list)
    planner: MPCState | None = None
    complete: bool = True

    def report(self, real_steps: int) -> TrialReport:
        """What the trial came to, after ``real_steps`` of the whole run."""
        return TrialReport(
            trial=self.trial,
            random=self.random,
            real_return=self.total,
            length=self.length,
            terminated=self.terminated,
            real_steps=real_steps,
            fit=self.fit,
            **PlanSummary.of(self.plans)._asdict(),
        )

    def state_dict(self) -> StateDict:
        """The state as nested plain values; not complete where the planner's cannot be kept."""
        complete = self.planner is None or self.planner.can_be_kept
        figures = [[float(getattr(plan, name)) for name in _FIGURES] for plan in self.plans]
        return {
            "trial": self.trial,
            "random": self.random,
            "obs": np.array(self.obs),
            "total": self.total,
            "length": self.length,
            "terminated": self.terminated,
            "over": self.over,
            "fit": fit_state(self.fit),
            "plans": np.array(figures, np.float64).reshape(-1, len(_FIGURES)),
            "planner": None if self.planner is None or not complete else self.planner.state_dict(),
            "complete": complete,
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], policy: MPCPolicy[Any]) -> TrialUnderWay:
        """The trial that :meth:`state_dict` gave.

        Raises:
            ValueError: if it is the state of something else.
        """
        require_keys(state, _FIELDS, "a trial under way")
        plans = []
        for *values, calls, seconds in state["plans"].tolist():
            warm, best, mean = (th.tensor(value, dtype=th.float64) for value in values)
            plans.append(PlanReport(warm, best, mean, th.tensor(0.0), 0, int(calls), seconds, 0.0))
        planner = None if state["planner"] is None else policy.state_from(state["planner"])
        given = {
            name: state[name]
            for name in ("trial", "random", "obs", "total", "length", "terminated", "over", "complete")
        }
        return cls(**given, fit=fit_from_state(state["fit"]), plans=plans, planner=planner)


def trial_state(report: TrialReport) -> StateDict:
    """The report of a trial as plain values."""
    return {**asdict(report), "fit": fit_state(report.fit)}


def trial_from_state(state: Mapping[str, Any]) -> TrialReport:
    """The report that :func:`trial_state` gave.

    Raises:
        ValueError: if it is none.
    """
    try:
        return TrialReport(**{**state, "fit": fit_from_state(state["fit"])})
    except (KeyError, TypeError) as error:
        raise ValueError(f"The state holds no report of a trial: {error}.") from error


def fit_state(report: FitReport | None) -> StateDict | None:
    """The report of a fit as plain values."""
    if report is None:
        return None
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(report).items()}


def fit_from_state(state: Mapping[str, Any] | None) -> FitReport | None:
    """The report that :func:`fit_state` gave."""
    if state is None:
        return None
    values: dict[str, Any] = {name: tuple(item) if isinstance(item, list) else item for name, item in state.items()}
    return FitReport(**values)


def part_state(part: Any) -> StateDict:
    """The state of a model or a trainer.

    Raises:
        TypeError: if it says nothing about its state.
    """
    if isinstance(part, th.nn.Module):
        return module_state(part)
    if not (callable(getattr(part, "state_dict", None)) and callable(getattr(part, "load_state_dict", None))):
        raise TypeError(
            f"A run checkpoint cannot keep the {type(part).__name__}: give it state_dict() and load_state_dict(state) "
            "as mbrl_wrappers.states.Stateful describes them."
        )
    state: StateDict = part.state_dict()
    return state


def load_part_state(part: Any, state: Mapping[str, Any]) -> None:
    """Put a model or a trainer into a state that :func:`part_state` gave.

    Raises:
        ValueError: if it is the state of something else.
    """
    if isinstance(part, th.nn.Module):
        load_module_state(part, state)
    else:
        part.load_state_dict(state)
