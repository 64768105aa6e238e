"""The states of SB3's callbacks: how often they were called, what evaluations came to, and what ours say themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    ConvertCallback,
    EvalCallback,
    EventCallback,
    ProgressBarCallback,
)

from mbrl_wrappers.states import StateDict, require_keys
from sb3_ext.averaged_callbacks import WithAveragedActor
from sb3_ext.plain_values import plain, revived
from sb3_ext.vec_env_state import load_vec_env_state, vec_env_state

_COUNTERS = (
    "n_calls",
    "last_time_trigger",
    "n_episodes",
    "no_improvement_evals",
    "last_best_mean_reward",
    "best_mean_reward",
    "last_mean_reward",
)
_EVALUATIONS = ("evaluations_timesteps", "evaluations_results", "evaluations_length", "evaluations_successes")


def every_callback(callback: BaseCallback | Sequence[BaseCallback] | None) -> list[BaseCallback]:
    """``callback`` and all that it holds, in a fixed order, without what SB3 adds itself."""
    return list(_walk(callback))


def holds_state(callback: BaseCallback) -> bool:
    """Whether a callback goes on from more than a few counts."""
    return hasattr(callback, "state_dict") or isinstance(callback, EvalCallback)


def callback_state(callback: BaseCallback) -> StateDict:
    """What ``callback`` goes on from: SB3's counters, evaluations and their environment, and its own ``state_dict()``.

    An evaluation environment whose state cannot be exported is None: its next starts are then other ones.
    """
    state: StateDict = {
        "kind": type(callback).__name__,
        "counters": {name: plain(vars(callback)[name]) for name in _COUNTERS if name in vars(callback)},
        "evaluations": None,
        "own": callback.state_dict() if hasattr(callback, "state_dict") else None,
    }
    if isinstance(callback, EvalCallback):
        state["evaluations"] = {
            **{name: [plain(value) for value in getattr(callback, name)] for name in _EVALUATIONS},
            "env": vec_env_state(callback.eval_env),
        }
    return state


def load_callback_state(callback: BaseCallback, state: Mapping[str, Any]) -> None:
    """Put ``callback`` into a state that :func:`callback_state` gave.

    Raises:
        ValueError: if it is the state of another callback.
    """
    name = type(callback).__name__
    require_keys(state, ("kind", "counters", "evaluations", "own"), f"the callback {name}")
    if hasattr(callback, "load_state_dict") and state["own"] is not None:
        callback.load_state_dict(state["own"])
    for counter, value in state["counters"].items():
        setattr(callback, counter, revived(value))
    if isinstance(callback, EvalCallback):
        evaluations = state["evaluations"]
        for column in _EVALUATIONS:
            getattr(callback, column)[:] = revived(evaluations[column])
        if evaluations["env"] is not None:
            load_vec_env_state(callback.eval_env, evaluations["env"])


def _walk(callback: Any) -> Iterator[BaseCallback]:
    if callback is None:
        return
    if isinstance(callback, list | tuple):
        for each in callback:
            yield from _walk(each)
    elif isinstance(callback, CallbackList):
        yield from _walk(callback.callbacks)
    elif isinstance(callback, BaseCallback):
        if not isinstance(callback, ConvertCallback | ProgressBarCallback):
            yield callback
        if isinstance(callback, EvalCallback):
            yield from _walk(callback.callback)  # what runs after an evaluation
            yield from _walk(callback.callback_on_new_best)
        elif isinstance(callback, EventCallback | WithAveragedActor):
            yield from _walk(callback.callback)
