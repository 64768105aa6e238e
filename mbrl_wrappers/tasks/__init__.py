"""What is known of a task: rewards, terminations, observation wrappers, and the check against the live environment.

* :func:`task_functions` reads the reward and termination of a known task from a live environment.
* :func:`check_agreement` measures how far they agree with it.
* :data:`never_terminates` is the rule for tasks that end by time limit only.
* :class:`ForwardVelocityObservation` and :class:`AngleObservation` make rewards exact and angles continuous.
* :class:`QuadraticReward` is for planners with derivatives, where the task's own reward has none.
* :class:`TabularObservation` numbers the cells of a Box, for models and agents that keep a table.
* :class:`MaskedObservation`, :class:`NoisyObservation` and :class:`FrameObservation` hide the state,
  :class:`StackedObservation` remembers a few observations, and :class:`LinearSystemEnv` is a task with noisy sensors
  whose best controller is known.
* :class:`MazeEnv` is a grid world; three of Sutton and Barto's are registered (:mod:`mbrl_wrappers.tasks.mazes`).

The functions are frozen dataclasses registered by name (:mod:`mbrl_wrappers.storage.stored_functions`), so a model that
uses them can be saved and loaded.
"""

from mbrl_wrappers.function_checks import Confusion
from mbrl_wrappers.tasks.agreement import AgreementReport, check_agreement
from mbrl_wrappers.tasks.frames import FrameObservation
from mbrl_wrappers.tasks.functions import TaskFunctions, task_functions
from mbrl_wrappers.tasks.lqg import LinearSystemEnv
from mbrl_wrappers.tasks.mazes import MazeEnv
from mbrl_wrappers.tasks.partial import MaskedObservation, NoisyObservation, StackedObservation
from mbrl_wrappers.tasks.quadratic import QuadraticReward
from mbrl_wrappers.tasks.rules import never_terminates
from mbrl_wrappers.tasks.tabular_observation import TabularObservation
from mbrl_wrappers.tasks.wrappers import AngleObservation, ForwardVelocityObservation

__all__ = [
    "AgreementReport",
    "AngleObservation",
    "Confusion",
    "ForwardVelocityObservation",
    "FrameObservation",
    "LinearSystemEnv",
    "MaskedObservation",
    "MazeEnv",
    "NoisyObservation",
    "QuadraticReward",
    "StackedObservation",
    "TabularObservation",
    "TaskFunctions",
    "check_agreement",
    "never_terminates",
    "task_functions",
]
