"""Copies of MuJoCo environments that are set to a state before each step: exact for every task, one row at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from mbrl_wrappers.models.env_copies import copy_attributes, copy_env
from mbrl_wrappers.models.mujoco_state import INTEGRATION, StateLayout, physics_of, quiet
from mbrl_wrappers.models.mujoco_tasks import SimulatedStep
from mbrl_wrappers.tasks.recipes import RECIPES
from mbrl_wrappers.tasks.wrappers import class_name

Array = NDArray[Any]
Attributes = dict[str, Any]

LAGGED = {
    "gymnasium.envs.mujoco.ant_v5.AntEnv": ("xpos",),
    "gymnasium.envs.mujoco.humanoid_v5.HumanoidEnv": ("xipos",),
}
"""What these tasks read before a step that MuJoCo computed during the step before: it lags the state by a part of one
physics step, so it cannot be computed anew. The other known tasks read nothing of the kind."""

DERIVED = (
    *("xpos", "xquat", "xmat", "xipos", "ximat", "xanchor", "xaxis", "geom_xpos", "geom_xmat", "site_xpos"),
    *("site_xmat", "cam_xpos", "cam_xmat", "subtree_com", "subtree_linvel", "subtree_angmom", "cinert", "cvel", "cacc"),
    *("cfrc_int", "cfrc_ext", "ten_length", "ten_velocity", "actuator_length", "actuator_velocity", "actuator_force"),
    *("qacc", "qacc_smooth", "qfrc_bias", "qfrc_passive", "qfrc_actuator", "qfrc_smooth", "qfrc_constraint"),
    *("qfrc_inverse", "sensordata"),
)
"""What any other environment might read before a step."""

_FIXED = frozenset({"model", "data", "mujoco_renderer", "spec", "metadata", "render_mode"}) | {
    *("action_space", "observation_space", "_np_random", "_np_random_seed")
}


def blank(rows: tuple[int, ...], obs_size: int) -> SimulatedStep:
    """Outcomes of failed steps: NaN, and no termination."""
    return SimulatedStep(np.full((*rows, obs_size), np.nan), np.full(rows, np.nan), np.zeros(rows, bool))


class Snapshot(NamedTuple):
    """One row as an environment knows it: ``physics (S,)``, ``lagged (L,)`` and what else its steps may change."""

    physics: Array
    lagged: Array
    attributes: Attributes | None


class ShadowPhysics:
    """Copies of the live environments, set to a state before each step.

    Args:
        envs: the live unwrapped environments.
    """

    def __init__(self, envs: Sequence[Any]) -> None:
        self._envs = tuple(envs)
        name = class_name(envs[0])
        self.known = name in RECIPES and all(class_name(env) == name for env in envs)
        self._lagged = LAGGED.get(name, ()) if self.known else DERIVED
        self._shadows: list[Any] = [None] * len(envs)
        self._views: list[list[Array]] = [[]] * len(envs)
        for number in range(len(envs)):
            self.renew(number)
        self.layout = StateLayout.of(envs[0].model)
        self._constants = self._read_constants()

    @property
    def is_current(self) -> bool:
        """Whether the live environments have the weights and ranges that they were copied with."""
        return self._constants == self._read_constants()

    def _read_constants(self) -> list[Attributes]:
        """The numbers in the attributes of environments of a known class, which no step changes; of others nothing."""
        if not self.known:
            return []
        plain = (bool, int, float, tuple)
        return [
            {name: value for name, value in vars(env).items() if type(value) in plain and name not in _FIXED}
            for env in self._envs
        ]

    def renew(self, number: int) -> Any:
        """Make the shadow of one environment anew, as it is now."""
        shadow: Any = copy_env(self._envs[number])
        shadow.mujoco_renderer = None
        self._shadows[number] = shadow
        arrays = (getattr(shadow.data, name, None) for name in self._lagged)
        self._views[number] = [array.reshape(-1) for array in arrays if array is not None]
        return shadow

    def read(self, number: int) -> tuple[Array, Snapshot]:
        """The current observation of a live environment and its snapshot. The environment is only read.

        Nobody knows what ``_get_obs`` of an unknown class does, so it is asked of a fresh copy.
        """
        live = self._envs[number]
        shadow = self._shadows[number] if self.known else self.renew(number)
        if self.known:
            shadow.model = live.model
        arrays = (getattr(live.data, name, None) for name in self._lagged)
        lagged = np.concatenate([np.empty(0), *(array.reshape(-1) for array in arrays if array is not None)])
        snapshot = Snapshot(physics_of(live), lagged, None if self.known else self._attributes(shadow))
        return np.array((live if self.known else shadow)._get_obs(), np.float64), snapshot

    def observe(self, number: int, row: Snapshot) -> Array:
        """The observation ``(O,)`` of a state that no step led to: derived quantities are those of the state itself."""
        shadow = self._load(number, row)
        with quiet():
            mujoco.mj_forward(shadow.model, shadow.data)
        return np.array(shadow._get_obs(), np.float64)

    def roll(self, number: int, row: Snapshot, actions: Sequence[Any], obs_size: int) -> tuple[Snapshot, SimulatedStep]:
        """The steps of one row: ``H`` environment actions to the last snapshot and the outcomes ``(H, ...)``.

        Steps after a termination are not taken: they repeat its observation, with reward 0. From the first step that
        fails on, outcomes and snapshot are NaN.
        """
        outcome = blank((len(actions),), obs_size)
        if not np.isfinite(row.physics).all():
            return row, outcome
        shadow = self._load(number, row)
        data = shadow.data
        for t, action in enumerate(actions):
            data.warning.number.fill(0)
            possible = np.isfinite(action).all()
            if possible:
                with quiet():
                    obs, reward, terminated, *_ = shadow.step(action)
            if not possible or data.warning.number.any():
                return Snapshot(np.full_like(row.physics, np.nan), row.lagged, row.attributes), outcome
            outcome.obs[t], outcome.reward[t], outcome.terminated[t] = obs, reward, terminated
            if terminated and len(actions) > 1:
                outcome.obs[t:], outcome.reward[t + 1 :], outcome.terminated[t:] = obs, 0.0, True
                break
        return self._save(number), outcome

    def fresh_start(self) -> tuple[Array, Array]:
        """Physics ``(S,)`` and lagged quantities ``(L,)`` at the start of an episode of the first environment."""
        shadow = self.renew(0)
        shadow.reset(seed=0)
        start = self._save(0)
        self.renew(0)  # a reset may have changed more than physics
        return start.physics, start.lagged

    def reseed(self, seed: int) -> None:
        """Give the copies a random stream, for classes whose steps may draw from it."""
        for number, shadow in enumerate(self._shadows):
            shadow._np_random = np.random.default_rng([seed, number])

    def _load(self, number: int, row: Snapshot) -> Any:
        shadow = self._shadows[number]
        if row.attributes is not None:
            copied = copy_attributes(shadow, row.attributes, _FIXED, None)
            attributes = vars(shadow)
            for name in attributes.keys() - _FIXED - copied.keys():
                del attributes[name]
            attributes.update(copied)
        mujoco.mj_setState(shadow.model, shadow.data, row.physics, INTEGRATION)
        start = 0
        for view in self._views[number]:
            view[:] = row.lagged[start : start + len(view)]
            start += len(view)
        return shadow

    def _save(self, number: int) -> Snapshot:
        shadow = self._shadows[number]
        lagged = np.concatenate([np.empty(0), *self._views[number]])
        return Snapshot(physics_of(shadow), lagged, None if self.known else self._attributes(shadow))

    @staticmethod
    def _attributes(shadow: Any) -> Attributes:
        """What a step may change besides physics. Not copied here, for each load copies it."""
        return {name: value for name, value in vars(shadow).items() if name not in _FIXED}
