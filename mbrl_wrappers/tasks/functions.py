"""``task_functions``: the known reward and termination of an environment, wrappers included."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from mbrl_wrappers.tasks.adapters import (
    ActionAdapter,
    AdaptedReward,
    AdaptedTermination,
    AffineAction,
    AnglesFromSines,
    ClippedAction,
)
from mbrl_wrappers.tasks.recipes import RECIPES, Recipe
from mbrl_wrappers.tasks.recognition import full_name, is_transparent, known_class
from mbrl_wrappers.tasks.rules import never_terminates
from mbrl_wrappers.tasks.wrappers import AngleObservation, ForwardVelocityObservation, class_name
from mbrl_wrappers.types import RewardFn, TerminationFn

REWARD_ONLY = frozenset(
    {
        "gymnasium.wrappers.stateful_reward.NormalizeReward",
        "gymnasium.wrappers.stateful_action.RepeatAction",  # sums rewards; its last observation still decides the end
    }
)
"""Wrappers that change what a step pays but not when an episode ends."""


@dataclass(frozen=True)
class TaskFunctions:
    """The reward and termination of a task as functions ``(obs (B, O), action, next_obs (B, O)) -> (B,)``.

    Both take and return environment units, keep float32 and float64, and are frozen dataclasses that
    :func:`mbrl_wrappers.storage.stored_functions.describe_function` turns into JSON.

    Attributes:
        reward_fn: None when the observation does not determine the reward: learn it.
        termination_fn: None when the rule is not known: learn it, or pass ``never_terminates`` if that is true.
        exact: which of ``"reward"`` and ``"termination"`` equal the environment's own, up to rounding.
        notes: sentences for the user about what is not exact and how to change that.
    """

    reward_fn: RewardFn | None = None
    termination_fn: TerminationFn | None = None
    exact: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


@dataclass
class _Unwrapping:
    """What is known after going through the wrappers from the task outwards."""

    recipe: Recipe
    origin: list[int]  # entry of the current observation -> entry of the task's, -1 for a sine or cosine
    actions: list[ActionAdapter] = field(default_factory=list)  # innermost first
    observations: list[AnglesFromSines] = field(default_factory=list)  # innermost first
    notes: list[str] = field(default_factory=list)
    reward_known: bool = True
    all_known: bool = True
    turns_lost: bool = False


def task_functions(env: gymnasium.Env[Any, Any], *, approximate: bool = False) -> TaskFunctions:
    """Find the reward and termination functions of an environment.

    Known are the eleven MuJoCo tasks of Gymnasium in version 5, Pendulum-v1, CartPole-v1, MountainCar-v0,
    MountainCarContinuous-v0, Acrobot-v1 and this package's ContinuousCartPole-v0, recognised by their exact class.
    Constants (weights, healthy ranges, time steps, what the observation includes) are read from the live environment
    when this is called.

    Wrappers that only observe are looked through; ``ClipAction`` and ``RescaleAction`` and this package's own
    wrappers are composed with; any other wrapper makes unknown what it may change. A subclass of a wrapper counts as
    that wrapper where it changes nothing, see :mod:`mbrl_wrappers.tasks.recognition`.

    Args:
        env: a Gymnasium environment, wrapped or not.
        approximate: also return a reward function that is only roughly right, where no exact one exists. It is
            not listed in ``exact``.

    Raises:
        TypeError: ``env`` is not a ``gymnasium.Env``.
    """
    if not isinstance(env, gymnasium.Env):
        raise TypeError(
            f"task_functions takes a gymnasium.Env, not {type(env).__name__}: for a vectorised environment pass one "
            "of its members, for example venv.envs[0]."
        )
    wrappers: list[gymnasium.Wrapper[Any, Any, Any, Any]] = []
    inner = env
    while isinstance(inner, gymnasium.Wrapper):
        wrappers.insert(0, inner)
        inner = inner.env
    if class_name(inner) not in RECIPES:
        return TaskFunctions(notes=(_unknown_task(inner),))
    shown = next((w for w in wrappers if known_class(w) is ForwardVelocityObservation), None)
    size = (shown or inner).observation_space.shape
    assert size is not None, "every known task observes a Box"
    recipe = RECIPES[class_name(inner)](inner, None if shown is None else size[0] - 1)
    state = _Unwrapping(recipe, list(range(size[0])), notes=[*recipe.notes, *_custom_model(inner)])
    for wrapper in wrappers:
        _see_through(wrapper, state)
    return _assemble(state, approximate)


def _unknown_task(task: gymnasium.Env[Any, Any]) -> str:
    name = class_name(task)
    old = re.fullmatch(r"gymnasium\.envs\.mujoco\.\w+_v(\d+)\.\w+", name)
    if old is not None:
        return (
            f"{name} is version {old[1]} of the task, whose rules differ from version 5: learn its reward and "
            "termination, supply your own functions, or use version 5."
        )
    return (
        f"The rules of {name} are not known: learn its reward and termination or supply your own functions; pass "
        "mbrl_wrappers.tasks.never_terminates only if its episodes end by time limit alone."
    )


def _custom_model(task: Any) -> list[str]:
    """A note when a MuJoCo task was built with another ``xml_file``."""
    path, module = getattr(task, "fullpath", None), sys.modules[type(task).__module__].__file__
    if path is None or module is None or Path(path).parent == Path(module).parent / "assets":
        return []
    return [f"The robot comes from {Path(path).name}, not from Gymnasium: confirm these functions by check_agreement."]


def _see_through(wrapper: gymnasium.Wrapper[Any, Any, Any, Any], state: _Unwrapping) -> None:
    """Account for one wrapper; called from the innermost to the outermost."""
    kind: Any = known_class(wrapper)
    name = full_name(kind)
    if not state.all_known:
        return
    if is_transparent(wrapper) or kind is ForwardVelocityObservation or _keeps_observation(wrapper, name):
        return
    if kind is AngleObservation:
        assert isinstance(wrapper, AngleObservation)
        angles = {state.origin[index] for index in wrapper.indices}
        state.origin = [state.origin[index] for index in wrapper.others] + [-1] * 2 * len(wrapper.indices)
        state.turns_lost |= bool(angles & state.recipe.full_turns)
        state.observations.append(AnglesFromSines(wrapper.others, wrapper.indices))
    elif name == "gymnasium.wrappers.transform_action.ClipAction":
        box = wrapper.env.action_space
        assert isinstance(box, spaces.Box), "ClipAction wraps nothing else"
        state.actions.append(ClippedAction(_floats(box.low), _floats(box.high)))
    elif name == "gymnasium.wrappers.transform_action.RescaleAction":
        assert isinstance(wrapper, gymnasium.ActionWrapper)
        # The wrapper keeps its coefficients in a closure; an affine map shows them at zero and at one.
        zeros = np.zeros(wrapper.action_space.shape or ())
        offset = wrapper.action(zeros)
        scale = wrapper.action(zeros + 1) - offset
        state.actions.append(AffineAction(_floats(scale), _floats(offset)))
    elif isinstance(wrapper, gymnasium.ActionWrapper) and kind.step is gymnasium.ActionWrapper.step:
        if state.recipe.reward.uses_action:
            state.reward_known = False
            state.notes.append(f"{name} changes actions in a way not known here, and the reward depends on them.")
    elif name in REWARD_ONLY or (
        isinstance(wrapper, gymnasium.RewardWrapper) and kind.step is gymnasium.RewardWrapper.step
    ):
        state.reward_known = False
        state.notes.append(f"{name} changes the reward in a way not known here: learn it.")
    else:
        state.all_known = False
        state.notes.append(
            f"What {name} does to observations, rewards or terminations is not known here: learn both, or call "
            "task_functions on the environment inside it and adapt the functions."
        )


def _keeps_observation(wrapper: gymnasium.Wrapper[Any, Any, Any, Any], name: str) -> bool:
    """Whether an observation wrapper passes on the same numbers, up to float32."""
    before, after = wrapper.env.observation_space, wrapper.observation_space
    if not isinstance(before, spaces.Box) or not isinstance(after, spaces.Box) or before.shape != after.shape:
        return False
    if name == "gymnasium.wrappers.transform_observation.DtypeObservation":
        return after.dtype in (np.float32, np.float64)
    return name == "gymnasium.wrappers.transform_observation.FlattenObservation"


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in np.ravel(values))


def _assemble(state: _Unwrapping, approximate: bool) -> TaskFunctions:
    """Put the adapters around the recipe's functions, and keep what is exact enough."""
    recipe, notes = state.recipe, list(state.notes)
    if not state.all_known:
        return TaskFunctions(notes=tuple(notes))
    if state.turns_lost:
        notes.append(
            "AngleObservation forgets whole turns of an angle that decides about health beyond half a turn: leave that "
            "index out to have exact functions."
        )
    exact = set()
    observations = tuple(reversed(state.observations))
    actions = tuple(reversed(state.actions)) if recipe.reward.uses_action else ()
    accuracy = "rough" if state.turns_lost else recipe.accuracy
    reward_fn: RewardFn | None = None
    if state.reward_known and (approximate or accuracy != "rough"):
        reward_fn = AdaptedReward(recipe.reward, actions, observations) if observations or actions else recipe.reward
        exact |= {"reward"} if accuracy == "exact" else set()
    termination_fn = recipe.termination
    never = termination_fn == never_terminates
    if observations and not never:
        termination_fn = AdaptedTermination(termination_fn, observations)
    exact |= {"termination"} if never or (recipe.exact_end and not state.turns_lost) else set()
    return TaskFunctions(reward_fn, termination_fn, frozenset(exact), tuple(notes))
