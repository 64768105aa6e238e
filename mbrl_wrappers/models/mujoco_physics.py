"""Physics on scratch data for many rows at once, with the outcome computed from states."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from mujoco.rollout import Rollout
from numpy.typing import NDArray

from mbrl_wrappers.models.mujoco_state import INTEGRATION, StateLayout, quiet
from mbrl_wrappers.models.mujoco_tasks import SimulatedStep, StepFormula

Array = NDArray[Any]


def fits_rollout(envs: Sequence[Any]) -> bool:
    """Whether the physics of all environments can run in one call.

    Their models must have equal sizes and timesteps, a step must be equally many physics steps, and nothing may be
    there that ``mujoco.rollout`` resets (equality constraints, mocap bodies).
    """
    first = envs[0]
    alike = all(
        (env.frame_skip, env.model.opt.timestep) == (first.frame_skip, first.model.opt.timestep)
        and _sizes(env.model) == _sizes(first.model)
        for env in envs[1:]
    )
    return alike and first.model.neq == 0 == first.model.nmocap


def _sizes(model: Any) -> dict[str, int]:
    """The sizes of everything in a simulated model, which its data must fit."""
    named = ((name, getattr(model, name)) for name in dir(model) if name.startswith("n"))
    return {name: size for name, size in named if isinstance(size, int)}


class FormulaPhysics:
    """Physics on scratch data, with the outcome computed from states.

    Args:
        envs: the live unwrapped environments; their ``model`` is read at each call, their ``data`` never.
        formula: the outcome of a step.
        threads: of the pool that ``rollout`` uses.
    """

    def __init__(self, envs: Sequence[Any], formula: StepFormula, threads: int) -> None:
        self._envs = tuple(envs)
        self._formula = formula
        self._threads = threads
        self._skip = int(envs[0].frame_skip)
        self.layout = StateLayout.of(envs[0].model)
        self._data = [mujoco.MjData(envs[0].model) for _ in range(threads)]
        self._untouched = np.empty(self.layout.size)
        mujoco.mj_getState(envs[0].model, self._data[0], self._untouched, INTEGRATION)
        self._pool: Any = None
        self._lock = threading.Lock()  # a pool serves one call at a time
        self._states = np.empty((0, 0, 0))

    def obs(self, physics: Array) -> Array:
        """``(B, O)`` of ``physics (B, S)``."""
        return self._formula.obs(physics[:, self.layout.qpos], physics[:, self.layout.qvel])

    def step(self, physics: Array, source: Array, action: Array) -> tuple[Array, SimulatedStep]:
        """One step: ``physics (B, S)``, ``source (B,)`` and ``action (B, A)`` to the next physics and the outcome."""
        data, following = self._data[0], np.empty_like(physics)
        failed: Array = np.asarray(~(np.isfinite(physics).all(1) & np.isfinite(action).all(1)))
        with self._lock, quiet():
            for row, number in enumerate(source.tolist()):
                if failed[row]:
                    continue
                model = self._envs[number].model
                mujoco.mj_setState(model, data, physics[row], INTEGRATION)
                data.ctrl[:] = action[row]
                data.warning.number.fill(0)
                mujoco.mj_step(model, data, nstep=self._skip)
                failed[row] = data.warning.number.any()
                mujoco.mj_getState(model, data, following[row], INTEGRATION)
            following[failed] = np.nan
            x = physics[:, self.layout.qpos.start]
            outcome = self._formula(x, following[:, self.layout.qpos], following[:, self.layout.qvel], action)
        return following, _without(outcome, failed)

    def rollout(self, physics: Array, source: Array, action: Array) -> SimulatedStep:
        """All steps of every row: ``action (B, H, A)`` to outcomes ``(B, H, ...)``."""
        layout = self.layout
        if (physics[:, layout.applied] != self._untouched[layout.applied]).any():
            return self._step_by_step(physics, source, action)  # mujoco.rollout would reset what a user applied
        with self._lock, quiet():
            initial = np.ascontiguousarray(physics[:, layout.full])
            # A simulation that fails is reset and then stands still, so its clock is not that of the others. Starting
            # at one, and not at zero, tells a reset in the first step as well; no formula looks at the clock.
            initial[:, 0] = 1.0
            states = self._simulate(initial, np.ascontiguousarray(physics[:, layout.warm]), source, action)
            clock = np.add.accumulate(np.r_[1.0, np.full(states.shape[1], self._envs[0].model.opt.timestep)])
            ends = states[:, self._skip - 1 :: self._skip]  # (B, H, full physics)
            failed = ends[..., 0] != clock[self._skip :: self._skip]
            failed |= ~np.logical_and.accumulate(np.isfinite(action).all(-1), axis=1)
            x = np.empty(failed.shape)
            x[:, 0], x[:, 1:] = initial[:, layout.qpos.start], ends[:, :-1, layout.qpos.start]
            return _without(self._formula(x, ends[..., layout.qpos], ends[..., layout.qvel], action), failed)

    def _simulate(self, initial: Array, warm: Array, source: Array, action: Array) -> Array:
        """Full physics states after each physics step, ``(B, H frame_skip, full)``, valid until the next call."""
        rows, horizon = action.shape[:2]
        shape = (rows, horizon * self._skip, initial.shape[1])
        if self._states.shape != shape:
            self._states = np.empty(shape)
        if self._pool is None:
            self._pool = Rollout(nthread=self._threads if self._threads > 1 else 0)
        control = np.repeat(action.astype(np.float64), self._skip, 1)
        models = [self._envs[number].model for number in source.tolist()]
        sensors = np.empty((*shape[:2], models[0].nsensordata))
        self._pool.rollout(
            models,
            self._data,
            initial,
            control,
            nstep=shape[1],
            initial_warmstart=warm,
            state=self._states,
            sensordata=sensors,
            skip_checks=True,
        )
        return self._states

    def _step_by_step(self, physics: Array, source: Array, action: Array) -> SimulatedStep:
        steps = []
        for t in range(action.shape[1]):
            physics, outcome = self.step(physics, source, action[:, t])
            steps.append(outcome)
        return SimulatedStep(*(np.stack(field, 1) for field in zip(*steps, strict=True)))


def _without(outcome: SimulatedStep, failed: Array) -> SimulatedStep:
    """``outcome`` with NaN where a simulation failed."""
    if failed.any():
        outcome.obs[failed], outcome.reward[failed], outcome.terminated[failed] = np.nan, np.nan, False
    return outcome
