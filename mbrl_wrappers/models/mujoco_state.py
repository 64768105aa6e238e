"""The physics state of a MuJoCo environment as one row of numbers, and a simulator that is silent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

INTEGRATION = int(mujoco.mjtState.mjSTATE_INTEGRATION)


class StateLayout(NamedTuple):
    """Where things are in a row of ``mjSTATE_INTEGRATION``, which is everything the next physics step depends on.

    Attributes:
        size: its length ``S``.
        qpos: positions.
        qvel: velocities.
        vector: positions, velocities and activations.
        warm: the start of the constraint solver, ``qacc_warmstart``.
        ctrl: controls.
        applied: what a user may have applied (forces, mocap bodies, switched constraints, user data).
        full: the columns of ``mjSTATE_FULLPHYSICS``, which is what ``mujoco.rollout`` takes and gives.
    """

    size: int
    qpos: slice
    qvel: slice
    vector: slice
    warm: slice
    ctrl: slice
    applied: slice
    full: Array

    @classmethod
    def of(cls, model: Any) -> StateLayout:
        """Read the layout from ``model``: components are stored in the order of their bits."""
        bits = mujoco.mjtState

        def start(bit: Any) -> int:
            return int(mujoco.mj_stateSize(model, int(bit) - 1))

        size, warm = int(mujoco.mj_stateSize(model, INTEGRATION)), start(bits.mjSTATE_WARMSTART)
        plugin = start(bits.mjSTATE_PLUGIN)
        qpos, qvel, act = (start(bit) for bit in (bits.mjSTATE_QPOS, bits.mjSTATE_QVEL, bits.mjSTATE_ACT))
        ctrl = start(bits.mjSTATE_CTRL)
        return cls(
            size,
            slice(qpos, qvel),
            slice(qvel, act),
            slice(qpos, act + model.na),
            slice(warm, ctrl),
            slice(ctrl, ctrl + model.nu),
            slice(ctrl + model.nu, plugin),
            np.r_[0:warm, plugin:size],
        )


def physics_of(env: Any) -> Array:
    """The physics state ``(S,)`` of an unwrapped environment, which is only read."""
    row = np.empty(mujoco.mj_stateSize(env.model, INTEGRATION))
    mujoco.mj_getState(env.model, env.data, row, INTEGRATION)
    return row


def _ignore(message: str) -> None:
    """Drop a message: a plan in which the simulation fails is reported as NaN."""


@contextmanager
def quiet() -> Iterator[None]:
    """Write nothing to the terminal or to ``MUJOCO_LOG.TXT`` about simulations that diverge inside the block."""
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(_ignore)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        mujoco.set_mju_user_warning(before)
