"""Whether the exported state of an environment is all of it: a trial on copies."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from mbrl_wrappers.comparable import comparable
from mbrl_wrappers.copies.copy_trial import check_copies
from mbrl_wrappers.copies.env_copies import AnyEnv, copy_env
from mbrl_wrappers.copies.object_export import NotExportableError
from mbrl_wrappers.seeding import fenced_global_streams
from mbrl_wrappers.states import StateDict

TRIAL_STEPS = 20
STEPS_AWAY = 5


def check_states(
    env: AnyEnv, export: Callable[[AnyEnv], StateDict], load: Callable[[AnyEnv, Mapping[str, Any]], None]
) -> None:
    """Compare a copy of ``env`` with another one that was led away and loaded with the first one's state.

    Both must answer 20 actions, the next reset and 20 more actions alike, to the last bit.

    Args:
        env: it is copied and never stepped.
        export: gives a state.
        load: loads one.

    Raises:
        TypeError: the environment cannot be copied, or the two answer differently.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_copies(env)
        one, other = copy_env(env), copy_env(env)
        with fenced_global_streams(1):
            if getattr(one.unwrapped, "_np_random", None) is None:  # without a seed, resets give what chance gives
                one.reset(seed=0)
            _answers(other, 7, STEPS_AWAY)
        try:
            load(other, export(one))
        except ValueError as error:
            raise NotExportableError(f"The state of {env} cannot be loaded into a copy: {error}") from error
        answers = []
        for each in (one, other):
            with fenced_global_streams(2):
                answers.append(_answers(each, 8, TRIAL_STEPS) + _answers(each, 9, TRIAL_STEPS))
    for number, (mine, its) in enumerate(zip(*answers, strict=True)):
        if mine != its:
            raise NotExportableError(
                f"{env} has a state that its attributes do not hold: a copy that was loaded with it answers "
                f"differently after {number} calls."
            )


def _answers(env: AnyEnv, seed: int, steps: int) -> list[str]:
    """What ``steps`` steps with random actions and a reset give; an episode that ends is followed by a reset."""
    actions = copy.deepcopy(env.action_space)
    actions.seed(seed)
    found = []
    for _ in range(steps):
        try:
            obs, reward, terminated, truncated, _ = env.step(actions.sample())
        except Exception as error:  # it wants a reset first
            found.append(f"{type(error).__name__}: {error}")
            break
        found.append(_text(obs, float(reward), bool(terminated), bool(truncated)))
        if terminated or truncated:
            break
    try:
        found.append(_text(env.reset()[0]))
    except Exception as error:  # it wants options
        found.append(f"{type(error).__name__}: {error}")
    return found


def _text(*values: Any) -> str:
    return repr(comparable(values))
