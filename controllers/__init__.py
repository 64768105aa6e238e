"""Planners and MPC for any model. They depend on protocols only, not on concrete models, environments or agents."""

from controllers.learning import learn_with_planner
from controllers.learning_checkpoints import PlannerCheckpoints
from controllers.learning_config import PlannerLearningConfig
from controllers.learning_reports import PlannerLearningResult, StepReport, TrialReport
from controllers.motion.closing import close_gap
from controllers.motion.kinodynamic import KinodynamicRRT
from controllers.motion.kinodynamic_path import KinodynamicPlan
from controllers.motion.kinodynamic_problem import KinodynamicProblem
from controllers.motion.path import MotionPlan, shortcut
from controllers.motion.rrt import RRT
from controllers.motion.rrt_connect import RRTConnect
from controllers.motion.rrt_star import RRTStar
from controllers.motion.space import MotionProblem
from controllers.motion.timing import Pace
from controllers.motion.tracking import LinearDynamics, PathTracker
from controllers.mpc import MPCPolicy, Objective
from controllers.mpc_state import MPCState
from controllers.plan import Plan, Planner, PlanReport, WarmStart
from controllers.problem import PlanningProblem
from controllers.proposals import Proposals
from controllers.risk import CVaR, Mean, MeanMinusStd, Risk, Worst
from controllers.search.mcts import MCTS, Outcomes, Prior, Rollouts
from controllers.search.statistics import RootStatistics, root_statistics, search_trees
from controllers.shooting.cem import CEM
from controllers.shooting.gradient import GradientShooting
from controllers.shooting.icem import ICEM
from controllers.shooting.mppi import MPPI
from controllers.shooting.random_shooting import RandomShooting
from controllers.spread import ReturnSpread
from controllers.trajectory.ilqr import ILQR
from controllers.trajectory.lqr import LQR

__all__ = [
    "CEM",
    "ICEM",
    "ILQR",
    "LQR",
    "MCTS",
    "MPPI",
    "RRT",
    "CVaR",
    "GradientShooting",
    "KinodynamicPlan",
    "KinodynamicProblem",
    "KinodynamicRRT",
    "LinearDynamics",
    "MPCPolicy",
    "MPCState",
    "Mean",
    "MeanMinusStd",
    "MotionPlan",
    "MotionProblem",
    "Objective",
    "Outcomes",
    "Pace",
    "PathTracker",
    "Plan",
    "PlanReport",
    "Planner",
    "PlannerCheckpoints",
    "PlannerLearningConfig",
    "PlannerLearningResult",
    "PlanningProblem",
    "Prior",
    "Proposals",
    "RRTConnect",
    "RRTStar",
    "RandomShooting",
    "ReturnSpread",
    "Risk",
    "Rollouts",
    "RootStatistics",
    "StepReport",
    "TrialReport",
    "WarmStart",
    "Worst",
    "close_gap",
    "learn_with_planner",
    "root_statistics",
    "search_trees",
    "shortcut",
]
