"""What is known of a task: rewards, terminations, observation wrappers, and the check against the live environment.

* :func:`task_functions` reads the reward and termination of a known task from a live environment.
* :func:`check_agreement` measures how far they agree with it.
* :data:`never_terminates` is the rule for tasks that end by time limit only.
* :class:`ForwardVelocityObservation` and :class:`AngleObservation` make rewards exact and angles continuous.
* :func:`describe`, :func:`restore` and :func:`register` carry the functions through JSON.
"""

from mbrl_wrappers.tasks.agreement import AgreementReport, Confusion, check_agreement
from mbrl_wrappers.tasks.functions import TaskFunctions, task_functions
from mbrl_wrappers.tasks.registry import describe, register, restore
from mbrl_wrappers.tasks.rules import never_terminates
from mbrl_wrappers.tasks.wrappers import AngleObservation, ForwardVelocityObservation

__all__ = [
    "AgreementReport",
    "AngleObservation",
    "Confusion",
    "ForwardVelocityObservation",
    "TaskFunctions",
    "check_agreement",
    "describe",
    "never_terminates",
    "register",
    "restore",
    "task_functions",
]
