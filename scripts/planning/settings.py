"""Planners by name, with their settings from YAML and the command line."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

import controllers
from controllers import MPCPolicy, Planner, PlannerLearningConfig
from mbrl_wrappers.tasks import QuadraticReward
from scripts.planning.arguments import PLANNERS
from scripts.training.configuration import (
    HYPERPARAMS_FOLDER,
    RunConfiguration,
    check_keys,
    load_configuration,
    unknown_key_message,
)

PLANNING_KEYS = ("horizon", "execute", "particles", "discount", "terminal_reward")
ACTING_KEYS = ("quadratic_reward",)  # of plan.yml alone
LEARNING_KEYS = tuple(field.name for field in fields(PlannerLearningConfig) if field.name != "total_steps")


@dataclass(frozen=True)
class PlannerSettings:
    """How to plan, and the whole entry that it comes from.

    Attributes:
        name: of the planner.
        planner: the planner itself.
        horizon: steps planned ahead.
        execute: actions executed of each plan.
        objective: further arguments of ``MPCPolicy``.
        reward: what plans maximise in place of the task's own reward; None leaves it.
        config: the merged entry; ``agent`` holds what concerns planning and learning.
    """

    name: str
    planner: Planner
    horizon: int
    execute: int
    objective: dict[str, Any]
    reward: QuadraticReward | None
    config: RunConfiguration


def planner_class(name: str) -> type[Any]:
    """The planner's class."""
    planner: type[Any] = getattr(controllers, PLANNERS[name])
    return planner


def build_planner(name: str, block: Mapping[str, Any]) -> Planner:
    """The planner with the fields that ``block`` sets.

    Raises:
        ValueError: for a key that is no field of it, or an impossible number.
    """
    cls = planner_class(name)
    check_keys(block, [field.name for field in fields(cls)], f"the {name} block or --hyperparams")
    planner: Planner = cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in block.items()})
    return planner


def try_out(policy: MPCPolicy[Any], obs: NDArray[Any]) -> None:
    """Run a minimal plan and discard it, so that incompatible settings fail before a folder is made.

    Args:
        policy: is not changed.
        obs: an observation of the model, the current one where it is bound to a live environment.

    Raises:
        TypeError: for a planner that cannot plan the task's actions, or a model that it cannot use.
        ValueError: for a horizon that is too short to execute.
    """
    planner: Any = policy.planner
    small = {name: count for name, count in (("population", 2), ("iterations", 1)) if hasattr(planner, name)}
    trial = copy.copy(policy)
    trial.planner = replace(planner, **small)
    trial.predict(obs)


def spelled_out(name: str, assignments: Mapping[str, Any]) -> dict[str, Any]:
    """``population:200`` as ``cem.population:200``: a field of the chosen planner needs no prefix."""
    own = {field.name for field in fields(planner_class(name))}
    return {f"{name}.{key}" if key in own else key: value for key, value in assignments.items()}


def read_settings(
    name: str, env_id: str, file: str, conf_file: str, given: Mapping[str, Any], flags: Mapping[str, Any]
) -> PlannerSettings:
    """Merge the YAML entry, ``--hyperparams`` and the flags, and build the planner.

    Args:
        name: of the planner.
        env_id: which entry.
        file: the YAML file among the scripts, ``pets.yml`` or ``plan.yml``.
        conf_file: another file to use instead, or nothing.
        given: ``--hyperparams``.
        flags: flags that were given, which win; those that are None were not.

    Raises:
        ValueError: for an unknown key or an impossible number.
    """
    path = Path(conf_file) if conf_file else HYPERPARAMS_FOLDER / file
    over = {**spelled_out(name, given), **{key: value for key, value in flags.items() if value is not None}}
    keys = [*PLANNING_KEYS, *(LEARNING_KEYS if file == "pets.yml" else ACTING_KEYS), *PLANNERS]
    try:
        config = load_configuration(path, env_id, keys, over)
    except ValueError as error:
        raise ValueError(_with_planner_fields(str(error), name, given, keys)) from error
    entry = dict(config.agent)
    block = {other: entry.pop(other, None) or {} for other in PLANNERS}[name]
    planner = build_planner(name, block)
    objective = {key: entry[key] for key in ("particles", "discount", "terminal_reward") if key in entry}
    quadratic = entry.get("quadratic_reward")
    config = RunConfiguration(agent={**entry, "planner": name, name: block}, model=config.model, run=config.run)
    reward = None if quadratic is None else _quadratic_reward(quadratic)
    horizon, execute = int(entry.get("horizon", 25)), int(entry.get("execute", 1))
    return PlannerSettings(name, planner, horizon, execute, objective, reward, config)


def _quadratic_reward(block: Mapping[str, Any]) -> QuadraticReward:
    check_keys(block, [field.name for field in fields(QuadraticReward)], "quadratic_reward")
    return QuadraticReward(**{key: tuple(value) if isinstance(value, list) else value for key, value in block.items()})


def _with_planner_fields(message: str, name: str, given: Mapping[str, Any], keys: list[str]) -> str:
    """The message about an unknown key, where the planner's own fields are among those it could be."""
    unknown = [key for key in given if message.startswith(f"Unknown key {key!r}")]
    own = [field.name for field in fields(planner_class(name))]
    return unknown_key_message(unknown[0], [*keys, *own], "--hyperparams") if unknown else message
