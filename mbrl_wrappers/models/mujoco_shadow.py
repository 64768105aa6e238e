"""Copies of MuJoCo environments that are set to a state before each step: exact for every task, one row at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from mbrl_wrappers.copies.copy_trial import check_copies
from mbrl_wrappers.copies.env_copies import copy_attributes, copy_env
from mbrl_wrappers.copies.object_graph import contents, walk
from mbrl_wrappers.models.mujoco_state import INTEGRATION, StateLayout, physics_of, quiet
from mbrl_wrappers.models.mujoco_tasks import SimulatedStep
from mbrl_wrappers.seeding import fenced_global_streams
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
"""What steps of other environments might read before physics advances."""

_FIXED = frozenset({"model", "data", "mujoco_renderer", "spec", "metadata", "render_mode"}) | {
    *("action_space", "observation_space", "_np_random", "_np_random_seed")
}

_UNUSED = frozenset({"_ezpickle_args", "_ezpickle_kwargs", "init_qpos", "init_qvel", "observation_structure"})
"""Attributes of known classes that no step reads."""


def blank(rows: tuple[int, ...], obs_size: int) -> SimulatedStep:
    """Outcomes of failed steps: NaN, and no termination."""
    return SimulatedStep(np.full((*rows, obs_size), np.nan), np.full(rows, np.nan), np.zeros(rows, bool))


class Snapshot(NamedTuple):
    """One row of a copied environment.

    Attributes:
        physics: ``(S,)``.
        lagged: ``(L,)``.
        attributes: what else its steps may change; None for known classes.
        truncated: whether the environment itself has truncated the episode.
    """

    physics: Array
    lagged: Array
    attributes: Attributes | None
    truncated: bool = False


class ShadowPhysics:
    """Copies of the live environments, set to a state before each step.

    Args:
        envs: the live unwrapped environments.
    """

    def __init__(self, envs: Sequence[Any]) -> None:
        self._envs = tuple(envs)
        name = class_name(envs[0])
        self.known = name in RECIPES and all(class_name(env) == name and not _overrides(env) for env in envs)
        self._lagged = LAGGED.get(name, ()) if self.known else DERIVED
        self._draws_globally = not self.known and any([check_copies(env) for env in envs])
        self._shadows: list[Any] = [None] * len(envs)
        self._views: list[list[Array]] = [[]] * len(envs)
        self._streams: list[np.random.Generator | None] = [None] * len(envs)
        for number in range(len(envs)):
            self.renew(number)
        self.layout = StateLayout.of(envs[0].model)
        self._models = [env.model for env in envs]
        self._constants = [_constants(env) for env in envs]

    @property
    def is_current(self) -> bool:
        """Whether the live environments are what they were when they were copied.

        Compared are the simulated model itself, its physics timestep and, for known classes, the values of all
        attributes, which no step changes. Other numbers of the simulated model are read in each step.
        """
        same = all(env.model is model for env, model in zip(self._envs, self._models, strict=True))
        return same and (not self.known or self._constants == [_constants(env) for env in self._envs])

    def renew(self, number: int) -> Any:
        """Make the shadow of one environment anew, as it is now."""
        shadow: Any = copy_env(self._envs[number])
        shadow.mujoco_renderer = None
        self._shadows[number] = shadow
        self._streams[number] = None
        arrays = (getattr(shadow.data, name, None) for name in self._lagged)
        self._views[number] = [array.reshape(-1) for array in arrays if array is not None]
        return shadow

    def read(self, number: int) -> tuple[Array, Snapshot]:
        """The current observation of a live environment and its snapshot. The environment is only read.

        ``_get_obs`` of an unknown class may change it, so it is called on a fresh copy.
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

        Steps after a termination or a truncation are not taken: they repeat its observation, with reward 0. From the
        first step that fails on, outcomes and snapshot are NaN.
        """
        outcome = blank((len(actions),), obs_size)
        if not np.isfinite(row.physics).all():
            return row, outcome
        shadow = self._load(number, row)
        if row.truncated:
            outcome.obs[:], outcome.reward[:] = shadow._get_obs(), 0.0
            return row, outcome
        data, truncated = shadow.data, False
        for t, action in enumerate(actions):
            data.warning.number.fill(0)
            possible = np.isfinite(action).all()
            if possible:
                with quiet():
                    obs, reward, terminated, truncated, _ = shadow.step(action)
            if not possible or data.warning.number.any():
                return Snapshot(np.full_like(row.physics, np.nan), row.lagged, row.attributes), outcome
            outcome.obs[t], outcome.reward[t], outcome.terminated[t] = obs, reward, terminated
            if truncated or terminated:
                outcome.obs[t:], outcome.reward[t + 1 :], outcome.terminated[t:] = obs, 0.0, terminated
                break
        return self._save(number)._replace(truncated=bool(truncated)), outcome

    def check(self, number: int, actions: Sequence[Any], obs_size: int) -> None:
        """Compare steps from a snapshot with those of a whole copy of the environment, made at the same moment.

        Args:
            number: of the environment.
            actions: three or more; the first leads to the snapshot.
            obs_size: ``O``.

        Raises:
            TypeError: they differ: a step depends on something that is in no snapshot.
        """
        with fenced_global_streams(0):
            shadow = self.renew(number)
            try:
                shadow.reset(seed=0)
                _, _, *ended, _ = shadow.step(np.array(actions[0]))
            except Exception:  # it may want options, or a reset of its own kind
                ended = [True]
            same = any(ended) or self._same_steps(number, actions[1:], obs_size)
            self.renew(number)  # a reset may have changed more than physics
        if not same:
            raise TypeError(
                f"MujocoModel does not follow {self._envs[number]}: its steps depend on more than its physics and its "
                "attributes (changes to env.model or contacts of the step before, for example). Use ClonedEnvModel, "
                "which copies the whole environment in each step."
            )

    def _same_steps(self, number: int, actions: Sequence[Any], obs_size: int) -> bool:
        """Whether steps from a snapshot of the present, taken after steps elsewhere, equal those of a whole copy."""
        row, whole = self._save(number), copy_env(self._shadows[number], 0)
        truth: list[Any] = []
        with fenced_global_streams(0), quiet():
            for action in actions:
                truth.append(whole.step(np.array(action))[:4])
                if truth[-1][2] or truth[-1][3]:
                    break
        taken = [np.array(action) for action in actions[: len(truth)]]
        self.roll(number, row, [-action for action in taken], obs_size)
        with fenced_global_streams(0):
            self._streams[number] = np.random.Generator(np.random.PCG64(0))
            _, got = self.roll(number, row, taken, obs_size)
        wanted = (np.array([step[field] for step in truth]) for field in range(3))
        return all(np.array_equal(one, other, equal_nan=True) for one, other in zip(wanted, got, strict=True))

    def fresh_start(self, number: int) -> Snapshot:
        """The start of an episode of one environment."""
        shadow = self.renew(number)
        shadow.reset(seed=0)
        start = self._save(number)
        self.renew(number)  # a reset may have changed more than physics
        return start

    @contextmanager
    def noise(self, seed: int) -> Iterator[None]:
        """Let the copies of classes that are not known draw new random numbers inside the block."""
        if self.known:
            yield
            return
        self._streams = [np.random.Generator(np.random.PCG64([seed, number])) for number in range(len(self._envs))]
        with fenced_global_streams(seed) if self._draws_globally else nullcontext():
            yield

    def _load(self, number: int, row: Snapshot) -> Any:
        shadow = self._shadows[number]
        if row.attributes is not None:
            stream = self._streams[number]
            copied = copy_attributes(shadow, row.attributes, _FIXED, stream)
            attributes = vars(shadow)
            if stream is not None:
                shadow._np_random = stream
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


def _overrides(env: Any) -> bool:
    """Whether something callable was put in the place of a method of this very environment."""
    return any(callable(value) for name, value in vars(env).items() if name not in _FIXED)


def _constants(env: Any) -> list[tuple[str, object]]:
    """The values in the attributes of an environment, and its physics timestep."""
    named = [(name, value) for name, value in vars(env).items() if name not in _FIXED and name not in _UNUSED]
    return [("timestep", env.model.opt.timestep), *((name, contents(value)) for name, value in walk(named))]
