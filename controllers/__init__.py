"""Planning with any model. Planners see protocols only: never a concrete model, an environment or an agent."""

from controllers.learning import (
    PlannerLearningConfig,
    PlannerLearningResult,
    StepReport,
    TrialReport,
    learn_with_planner,
)
from controllers.mpc import MPCPolicy, MPCState, Objective, Proposals
from controllers.plan import Plan, Planner, PlanReport, WarmStart
from controllers.problem import PlanningProblem
from controllers.progress import PlannerProgress, load_progress, save_progress
from controllers.risk import CVaR, Mean, MeanMinusStd, Risk, Worst
from controllers.shooting.cem import CEM
from controllers.shooting.gradient import GradientShooting
from controllers.shooting.icem import ICEM
from controllers.shooting.mppi import MPPI
from controllers.shooting.random_shooting import RandomShooting
from controllers.trajectory.ilqr import ILQR
from controllers.trajectory.lqr import LQR

__all__ = [
    "CEM",
    "ICEM",
    "ILQR",
    "LQR",
    "MPPI",
    "CVaR",
    "GradientShooting",
    "MPCPolicy",
    "MPCState",
    "Mean",
    "MeanMinusStd",
    "Objective",
    "Plan",
    "PlanReport",
    "Planner",
    "PlannerLearningConfig",
    "PlannerLearningResult",
    "PlannerProgress",
    "PlanningProblem",
    "Proposals",
    "RandomShooting",
    "Risk",
    "StepReport",
    "TrialReport",
    "WarmStart",
    "Worst",
    "learn_with_planner",
    "load_progress",
    "save_progress",
]
